"""Logs of a few rows, written to a folder with their declaration."""

from pathlib import Path
from typing import Any

import yaml

# Ten events at the times 1 to 10: by time 8 are training, the ninth is validation and the tenth test.
EVENTS = """user,item,domain,time,hour
007,i1,a,1,9
007,i2,a,2,10
u2,i1,b,3,9
u2,i3,b,4,11
u2,i1,a,5,9
u3,i2,a,6,12
u3,i4,b,7,9
007,i3,b,8,10
u3,i1,a,9,13
u2,i5,b,10,14
"""

ITEMS = """item,colour,tags,price,name
i1,red,x|y,10,First
i2,blue,y,20,Second
i3,red,,30,Third
i4,green,z|x,40,Fourth
i5,black,w,1000,Fifth
"""

BIDS = """item,domain,bid
i1,a,1.0
i1,b,2.0
i2,a,3.0
i3,b,6.0
i4,b,8.0
"""


def declaration(**changes: Any) -> dict[str, Any]:
    """The declaration of EVENTS; `changes` replace whole keys."""
    content: dict[str, Any] = {
        "name": "small",
        "events": {"files": ["events.csv"], "user": "user", "item": "item", "domain": "domain", "time": "time"},
        "domains": {"a": {}, "b": {}},
        "fields": [
            {"name": "user_id", "side": "user", "kind": "id"},
            {"name": "history", "side": "user", "kind": "history", "scope": "all"},
            {"name": "item_id", "side": "item", "kind": "id"},
        ],
        "split": {"by": "time", "valid": 0.1, "test": 0.1},
    }
    return {**content, **changes}


def write_log(folder: Path, content: dict[str, Any] | None = None, **files: str) -> Path:
    """Write log.yaml, events.csv (EVENTS unless given) and further `NAME.csv`; gives the path of log.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"events": EVENTS, **files}.items():
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    file = folder / "log.yaml"
    file.write_text(yaml.safe_dump(content or declaration(), sort_keys=False), encoding="utf-8")
    return file


def rich_declaration() -> dict[str, Any]:
    """EVENTS with ITEMS and BIDS: every kind of field."""
    content = declaration(
        tables={
            "items": {"files": ["items.csv"], "item": "item"},
            "bids": {"files": ["bids.csv"], "item": "item", "domain": "domain"},
        },
        title={"name": "title", "side": "item", "kind": "categorical", "source": "items", "column": "name"},
    )
    content["fields"] += [
        {"name": "hour", "side": "context", "kind": "categorical"},
        {"name": "colour", "side": "item", "kind": "categorical", "source": "items"},
        {"name": "tags", "side": "item", "kind": "multi_valued", "source": "items"},
        {"name": "price", "side": "item", "kind": "number", "source": "items"},
        {"name": "bid", "side": "item", "kind": "number", "source": "bids"},
    ]
    return content
