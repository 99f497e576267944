"""A bundle's files: the manifest that names each with its checksum, and tensors without pickles."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from isthmus.data.dataset import file_checksum
from isthmus.errors import InputError
from isthmus.models.ranker import RankingSettings
from isthmus.models.two_tower import TwoTowerSettings

KIND, FORMAT, MANIFEST = "isthmus bundle", 2, "manifest.json"
ALIASES = "aliases"
AGAIN = "make it again with 'isthmus bundle'"


class Part(BaseModel):
    """Base of what a manifest holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(Part):
    """One file: its SHA-256 and how long it is."""

    sha256: str
    num_bytes: int


class Source(Part):
    """What a part was made of: hash of the log's declaration, SHA-256 of the dataset's manifest and of the weights."""

    schema_hash: str
    dataset_sha256: str
    weights_sha256: str


class CorpusRecord(Part):
    """How one domain's items are searched; `folder` holds their vectors and popularity, and the index if any.

    recall: the share of the best that a tuned index finds of sampled users; None: exact, or as the run's settings say.
    """

    domain: str
    folder: str
    kind: Literal["exact", "ivf", "hnsw"]
    num_items: int
    recall: float | None = None


class Shard(Part):
    """Which of `count` parts of every corpus: the items whose row leaves `place` when divided by `count`."""

    place: int = Field(ge=0)
    count: int = Field(ge=1)


class RetrievalRecord(Part):
    """The retrieval model: `data` is the folder of what it reads of users and items.

    shard: the part of each corpus that is here; None: all of it, and then the manifest does not have the key.
    """

    data: str
    settings: TwoTowerSettings
    source: Source
    corpora: tuple[CorpusRecord, ...]
    shard: Shard | None = Field(default=None, exclude_if=lambda shard: shard is None)


class RankingRecord(Part):
    """The click model.

    domains: those it was trained for, by name; elsewhere retrieval's order stands.
    targets: of CDAnet: the numbers of the domains with an augmentation network.
    num_candidates: items that retrieval hands over: as deep as the lists that the model was trained on.
    score_field: the field of side `row` that takes retrieval's score of the item.
    kept_shares: of each domain's negatives, the share that the model was trained on; probabilities are corrected.
    known_items: of each domain it ranks, the share of the corpus that it knows by id.
    """

    data: str
    settings: RankingSettings
    source: Source
    domains: tuple[str, ...]
    targets: tuple[int, ...]
    num_candidates: int = Field(ge=1)
    score_field: str | None
    kept_shares: tuple[float, ...]
    known_items: dict[str, float]


class Manifest(Part):
    """What a bundle is. `created` is in ISO 8601; `version` is a checksum of all the rest."""

    kind: Literal["isthmus bundle"]
    format: Literal[2]
    created: str
    versions: dict[str, str]
    domains: tuple[str, ...]
    retrieval: RetrievalRecord
    ranking: RankingRecord | None
    files: dict[str, FileRecord]
    version: str


def write_manifest(folder: Path, content: Mapping[str, Any]) -> Manifest:
    """Write manifest.json over all files that the folder holds now."""
    present = sorted(file for file in folder.rglob("*") if file.is_file())
    records = {
        file.relative_to(folder).as_posix(): FileRecord(sha256=file_checksum(file), num_bytes=file.stat().st_size)
        for file in present
    }
    manifest = Manifest.model_validate({"kind": KIND, "format": FORMAT, "files": records, "version": "", **content})
    manifest = manifest.model_copy(update={"version": checksum(manifest)})
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


def checksum(manifest: Manifest) -> str:
    """SHA-256 of a manifest without its version, the first 16 digits."""
    text = json.dumps(manifest.model_dump(mode="json", exclude={"version"}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle.

    Raises:
        InputError: the folder is no bundle, or its manifest is damaged or of another format.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise InputError(f"{folder}: not a bundle (no {MANIFEST}); make one with 'isthmus bundle'")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: damaged ({error}); {AGAIN}") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise InputError(f"{folder}: not a bundle ({MANIFEST} is of something else); make one with 'isthmus bundle'")
    if content.get("format") != FORMAT:
        raise InputError(f"{file}: format {content.get('format')!r}, this version reads {FORMAT}; {AGAIN}")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{file}: damaged ({where}: {first['msg']}); {AGAIN}") from error
    if checksum(manifest) != manifest.version:
        raise InputError(f"{file}: damaged, its content has not the checksum that it states; {AGAIN}")
    return manifest


def require_intact(folder: Path, manifest: Manifest) -> None:
    """Raises InputError where a file is missing, of another length, or has another byte than when it was written."""
    for name, record in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file}: missing; the bundle is incomplete, {AGAIN} or copy it again")
        if file.stat().st_size != record.num_bytes:
            raise InputError(
                f"{file}: has {file.stat().st_size} bytes, {record.num_bytes} were written; copy the bundle again"
            )
        if file_checksum(file) != record.sha256:
            raise InputError(f"{file}: damaged, its SHA-256 is not that of the manifest; copy the bundle again")


def save_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors; those that share their memory, such as a table of both sides, are written once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    first: dict[tuple[int, tuple[int, ...]], str] = {}
    aliases: dict[str, str] = {}
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        kept[name] = tensor.detach().cpu().contiguous()
    file.touch()
    mode = file.stat().st_mode
    save_file(kept, str(file), metadata={ALIASES: json.dumps(aliases)})
    file.chmod(mode)  # safetensors lets the owner alone read it, and a container serves as another user


def load_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file, memory-mapped; raises InputError where it is not whole."""
    try:
        with safe_open(str(file), framework="pt") as opened:
            tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            aliases: dict[str, str] = json.loads((opened.metadata() or {}).get(ALIASES, "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{file}: not readable ({error}); copy the bundle again") from error
    return {**tensors, **{name: tensors[source] for name, source in aliases.items()}}


def load_weights(file: Path, model: nn.Module) -> None:
    """Give a model the weights of a file, memory-mapped, for evaluation without gradients.

    Raises:
        InputError: the file is not whole, or of another model.
    """
    try:
        model.load_state_dict(load_tensors(file), assign=True)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{file}: does not fit the settings in the bundle; {AGAIN}") from error
    model.requires_grad_(False)
    model.eval()
