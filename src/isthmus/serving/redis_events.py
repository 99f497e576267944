"""Recent events in Redis: one store for the servers of several machines."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from isthmus.errors import InputError
from isthmus.serving.event_store import MOST_RECENT, Event, EventsUnavailableError

PREFIX = "{isthmus}:"  # braces: all keys in one slot, so that a script may touch several of them in a cluster
FORMAT = b"1"
ANSWER_S = 1.0
LOG = logging.getLogger("isthmus.serving")

# An entry of a user's list is {user's item, domain, time, id}; what leaves the list takes its id's key with it.
LEAVE = """
local function leave(list)
    local entry = redis.call('LPOP', list)
    local id = cjson.decode(entry)[4]
    if id ~= '' then redis.call('DEL', prefix .. 'id:' .. id) end
end
"""
ADD = f"""
local prefix, now, kept_ms, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
{LEAVE}
local added = 0
for place = 5, #ARGV, 4 do
    local user, item, domain, id = ARGV[place], ARGV[place + 1], ARGV[place + 2], ARGV[place + 3]
    if id == '' or redis.call('SET', prefix .. 'id:' .. id, '', 'NX', 'PX', kept_ms) then
        local list = prefix .. 'user:' .. user
        redis.call('RPUSH', list, cjson.encode({{item, domain, now, id}}))
        redis.call('PEXPIRE', list, kept_ms)
        if redis.call('LLEN', list) > most then leave(list) end
        added = added + 1
    end
end
return added
"""
FORGET = f"""
local prefix = ARGV[1]
{LEAVE}
local list = prefix .. 'user:' .. ARGV[2]
local count = redis.call('LLEN', list)
for _ = 1, count do leave(list) end
redis.call('HSET', prefix .. 'forgotten', ARGV[2], ARGV[3])
return count
"""
EXPIRE = f"""
local prefix, oldest = ARGV[1], tonumber(ARGV[2])
{LEAVE}
local count = 0
while true do
    local entry = redis.call('LINDEX', KEYS[1], 0)
    if not entry or tonumber(cjson.decode(entry)[3]) > oldest then return count end
    leave(KEYS[1])
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

    Raises:
        InputError: the address is malformed, no server answers there, or what it keeps is of another version.
    """

    def __init__(self, url: str, *, retention_s: float) -> None:
        self.retention_s = retention_s
        try:
            self._redis = redis.Redis.from_url(
                url,
                socket_timeout=ANSWER_S,
                socket_connect_timeout=ANSWER_S,
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

    def add(self, events: Sequence[Event], *, now: float) -> int:
        texts = [text for event in events for text in (event.user, event.item, event.domain, event.id or "")]
        with self._answering():
            return int(self._add(args=[PREFIX, repr(now), self._kept_ms, MOST_RECENT, *texts]))

    def recent(self, user: str, *, now: float) -> list[tuple[str, str]]:
        with self._answering():
            entries = self._redis.lrange(_key(user), 0, -1)
        read = [json.loads(entry) for entry in entries]
        return [(item, domain) for item, domain, time, _ in read if float(time) > now - self.retention_s]

    def forget(self, user: str, *, now: float) -> int:
        with self._answering():
            return int(self._forget(args=[PREFIX, user, repr(now)]))

    def is_forgotten(self, user: str) -> bool:
        with self._answering():
            return bool(self._redis.hexists(f"{PREFIX}forgotten", user))

    def expire(self, *, now: float) -> int:
        """Delete events older than the retention; gives how many.

        Redis deletes all of a user's by itself once the last one is so old; what is left are older ones of users who
        are still active.
        """
        with self._answering():
            lists = self._redis.scan_iter(f"{PREFIX}user:*", count=1000)
            return sum(int(self._expire(keys=[key], args=[PREFIX, repr(now - self.retention_s)])) for key in lists)

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


def _key(user: str) -> str:
    return f"{PREFIX}user:{user}"
