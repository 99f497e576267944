"""Recent events in Redis: one store for the servers of several machines."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import uuid4

import redis
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.retry import Retry

from isthmus.errors import InputError
from isthmus.serving.event_store import MOST_RECENT, Decide, Event, EventsUnavailableError, always

PREFIX = "{isthmus}:"  # braces: all keys in one slot, so that a script may touch several of them in a cluster
KNOWN, UNKNOWN = "user:", "unknown:"  # what the keys of a user's lists begin with
FORMAT = b"1"
ANSWER_S = 1.0
LOG = logging.getLogger("isthmus.serving")

# An entry of a user's list is {user's item, domain, time, id}; what leaves the list takes its id's key with it. Items
# that no model knows when they come have a list of their own. An id is a user's, so its key begins with how long the
# user's name is: no two pairs of both have one key.
LEAVE = """
local function id_key(user, id) return prefix .. 'id:' .. #user .. ':' .. user .. ':' .. id end
local function leave(list, user)
    local entry = redis.call('LPOP', list)
    local id = cjson.decode(entry)[4]
    if id ~= '' then redis.call('DEL', id_key(user, id)) end
end
"""
# A write that its sender has given up must not happen: the server was stopped, perhaps, and goes on. And one whose
# answer was lost with its connection is sent again, and must not happen twice.
ONCE = """
local time = redis.call('TIME')
if tonumber(time[1]) + tonumber(time[2]) / 1e6 > tonumber(ARGV[2]) then return redis.error_reply('LATE too late') end
local once = prefix .. 'write:' .. ARGV[3]
local done = redis.call('GET', once)
if done then return tonumber(done) end
"""
ADD = f"""
local prefix, now, kept_ms, most = ARGV[1], ARGV[4], ARGV[5], tonumber(ARGV[6])
{LEAVE}{ONCE}
local added = 0
for place = 7, #ARGV, 5 do
    local user, item, domain, id, kind = unpack(ARGV, place, place + 4)
    if id == '' or redis.call('SET', id_key(user, id), '', 'NX', 'PX', kept_ms) then
        local list = prefix .. kind .. user
        redis.call('RPUSH', list, cjson.encode({{item, domain, now, id}}))
        redis.call('PEXPIRE', list, kept_ms)
        if redis.call('LLEN', list) > most then leave(list, user) end
        added = added + 1
    end
end
redis.call('SET', once, added, 'PX', 60000)
return added
"""
FORGET = f"""
local prefix, user = ARGV[1], ARGV[4]
{LEAVE}{ONCE}
local deleted = 0
for _, kind in ipairs({{'user:', 'unknown:'}}) do
    local list = prefix .. kind .. user
    local count = redis.call('LLEN', list)
    for _ = 1, count do leave(list, user) end
    deleted = deleted + count
end
redis.call('HSET', prefix .. 'forgotten', user, ARGV[5])
redis.call('SET', once, deleted, 'PX', 60000)
return deleted
"""
EXPIRE = f"""
local prefix, oldest, user = ARGV[1], tonumber(ARGV[2]), ARGV[3]
{LEAVE}
local count = 0
while true do
    local entry = redis.call('LINDEX', KEYS[1], 0)
    if not entry or tonumber(cjson.decode(entry)[3]) > oldest then return count end
    leave(KEYS[1], user)
    count = count + 1
end
"""


class RedisEvents:
    """A Redis server that any number of servers share; of a user it keeps the last MOST_RECENT events.

    What `add` returned for is as safe as the server is told to keep it: on its disk with `appendonly yes` and
    `appendfsync always`. Where it is told less, the log warns when the store is opened.

    Args:
        url: redis://[user:password@]host[:port][/database], rediss:// with TLS, or unix://PATH.
        retention_s: how long an event is read; Redis deletes it then, at the latest as long after the user's last one.
        answer_s: how long to wait for an answer.

    Raises:
        InputError: the address is malformed, no server answers there, or what it keeps is of another version.
    """

    def __init__(self, url: str, *, retention_s: float, answer_s: float = ANSWER_S) -> None:
        self.retention_s, self.answer_s = retention_s, answer_s
        try:
            self._redis = redis.Redis.from_url(
                url,
                socket_timeout=answer_s,
                socket_connect_timeout=answer_s,
                # once more where a connection has gone stale, not where the server is slow: requests wait meanwhile
                retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            )
        except ValueError as error:
            raise InputError(f"--events: {error}; give redis://HOST:PORT/DATABASE, or a file") from error
        pool = self._redis.connection_pool.connection_kwargs
        self.where = pool.get("path") or f"{pool.get('host')}:{pool.get('port', 6379)}"
        try:
            self._redis.set(f"{PREFIX}format", FORMAT, nx=True)
            found = self._redis.get(f"{PREFIX}format")
            self._warn_of_losses()
        except redis.RedisError as error:
            raise InputError(
                f"--events: Redis at {self.where} does not answer ({error}); start it, or give its address"
            ) from error
        if found != FORMAT:
            raise InputError(f"--events: Redis at {self.where} keeps events of another version; give another database")
        self._add = self._redis.register_script(ADD)
        self._forget = self._redis.register_script(FORGET)
        self._expire = self._redis.register_script(EXPIRE)

    def add(self, events: Sequence[Event], *, now: float, decide: Decide = always) -> int:
        texts = [
            text
            for event in events
            for text in (event.user, event.item, event.domain, event.id or "", KNOWN if event.is_known else UNKNOWN)
        ]
        return self._write(self._add, repr(now), self._kept_ms, MOST_RECENT, *texts, decide=decide)

    def recent(self, user: str, *, now: float) -> list[tuple[str, str]]:
        with self._answering():
            asked = self._redis.pipeline(transaction=False)
            for kind in (KNOWN, UNKNOWN):
                asked.lrange(f"{PREFIX}{kind}{user}", 0, -1)
            lists = asked.execute()
        read = [json.loads(entry) for entries in lists for entry in entries]
        read.sort(key=lambda entry: float(entry[2]))
        return [(item, domain) for item, domain, time, _ in read if float(time) > now - self.retention_s]

    def forget(self, user: str, *, now: float, decide: Decide = always) -> int:
        return self._write(self._forget, user, repr(now), decide=decide)

    def is_forgotten(self, user: str) -> bool:
        with self._answering():
            return bool(self._redis.hexists(f"{PREFIX}forgotten", user))

    def expire(self, *, now: float) -> int:
        """Delete events older than the retention; gives how many.

        Redis deletes all of a user's by itself once the last one is so old; what is left are older ones of users who
        are still active.
        """
        num_deleted = 0
        with self._answering():
            for kind in (KNOWN, UNKNOWN):
                beginning = f"{PREFIX}{kind}".encode()
                for key in self._redis.scan_iter(beginning + b"*", count=1000):
                    oldest = repr(now - self.retention_s)
                    num_deleted += int(self._expire(keys=[key], args=[PREFIX, oldest, key.removeprefix(beginning)]))
        return num_deleted

    def _write(self, script: Script, *arguments: str | int, decide: Decide) -> int:
        """Run a script that is not run twice, and not after we have stopped to wait for it."""
        with self._answering():
            seconds, micros = self._redis.time()
            decide()
            until = repr(seconds + micros / 1e6 + self.answer_s / 2)
            return int(script(args=[PREFIX, until, uuid4().hex, *arguments]))

    @property
    def _kept_ms(self) -> int:
        return max(1, round(1000 * self.retention_s))

    def _warn_of_losses(self) -> None:
        """A managed server may not tell how it writes; then nothing is said."""
        try:
            told = self._redis.config_get("append*", "maxmemory-policy")
        except redis.ResponseError:
            return
        if told.get("appendonly") != "yes" or told.get("appendfsync") != "always":
            LOG.warning(
                "Redis may lose events that were acknowledged: set appendonly yes and appendfsync always",
                extra={"fields": {"redis": self.where}},
            )
        if told.get("maxmemory-policy") not in (None, "noeviction"):
            LOG.warning(
                "Redis may evict events: set maxmemory-policy noeviction", extra={"fields": {"redis": self.where}}
            )

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise EventsUnavailableError(f"Redis at {self.where}: {error}") from error
