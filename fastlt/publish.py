"""`fastlt publish`: an exported model or an encoded data set onto a hub, if it is whole and its licenses permit it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fastlt.atomic import write_text
from fastlt.dataset.attribution import FILE, read_credits
from fastlt.dataset.card import CARD, contents, settings, without_run, write_card
from fastlt.dataset.encoded import EncodedDataset
from fastlt.foreign import Secrets, load_json, shown_url
from fastlt.licenses import counted, permits
from fastlt.messages import listed, one_line

_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_HUB = "https://huggingface.co"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Of an exported model; the first four are needed, and one of the next two.
_NEEDED, _EITHER = ("model.safetensors", "model.json", "load.py", CARD), ("config.json", "adaptformer.py")
_MAYBE = ("model.onnx", "model.onnx.data")


class Parcel(NamedTuple):
    """What is pushed: {name in the repository: a file, or its content}, to a repository of a kind."""

    kind: str
    files: dict[str, Path | bytes]
    said: str


def publish(
    folder: Path, repository: str, endpoint: str = "", private: bool = False, own_license: str = "", yes: bool = False
) -> str:
    """Pushes a folder in one commit, after asking; returns where it is.

    Args:
        folder: an exported model or an encoded data set.
        repository: OWNER/NAME.
        endpoint: of the hub, "" for $HF_ENDPOINT or Hugging Face.
        private: have nobody else see it.
        own_license: of the images of a data set that its maker brought.
        yes: do not ask.

    Raises:
        ValueError: no owner is named, the folder is not whole, its licenses forbid it, nobody said yes, or the hub did
            not take it.
    """
    endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")
    token = next((value for name in _TOKENS if (value := os.environ.get(name, "").strip())), "")
    _require_safe(endpoint)
    if not all(parts := repository.split("/")) or len(parts) != 2:
        raise ValueError(f"--to {repository} is no repository: give OWNER/NAME, such as me/birds.")
    parcel = _parcel(folder, own_license)
    if not token:
        raise ValueError("there is no token of the hub: set HF_TOKEN to one that may write.")
    _ask(parcel, f"{shown_url(endpoint)}, {parcel.kind} {repository}", private, yes)
    return _pushed(parcel, folder, repository, endpoint, private, token)


def _require_safe(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError(
            f"--endpoint {shown_url(endpoint)} must begin with https://: the token would be sent so that others can "
            "read it."
        )


def _parcel(folder: Path, own_license: str) -> Parcel:
    if (folder / "manifest.json").exists():
        return _data_set(folder, own_license)
    if not (folder / "model.safetensors").exists():
        raise ValueError(f"{folder} is neither an exported model nor an encoded data set: `fastlt export` makes one.")
    if own_license:
        raise ValueError("--own-license is about the images of a data set: a model has `fastlt export --license`.")
    return _model(folder)


def _model(folder: Path) -> Parcel:
    """Raises ValueError for one that is not whole."""
    from safetensors import SafetensorError, safe_open

    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in _EITHER):
        missing.append(_EITHER[0])
    if missing:
        raise ValueError(f"{folder} is not whole, it has no {listed(missing)}: run `fastlt export` again.")
    try:
        number_of_labels = len(load_json(folder / "model.json")["labels"])
        with safe_open(folder / "model.safetensors", framework="numpy") as stored:
            number = len(stored.keys())
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is damaged ({one_line(error)}): run `fastlt export` again.") from None
    names = [name for name in (*_NEEDED, *_EITHER, *_MAYBE) if (folder / name).is_file()]
    files: dict[str, Path | bytes] = {name: folder / name for name in names}
    return Parcel("model", files, f"a model of {number_of_labels:,} classes, {number:,} tensors")


def _data_set(folder: Path, own_license: str) -> Parcel:
    """Raises ValueError for one that is not whole, or may not be passed on."""
    data = EncodedDataset.open(folder)
    if data.format == "plain":
        raise ValueError(f"{folder} is an index of files on this machine: encode with --format webdataset or ffcv.")
    if settings(data).get("catalog") and not (folder / FILE).is_file():
        raise ValueError(f"{folder} is not whole, it has no {FILE} to credit anybody by: encode again.")
    _require_permitted(data, own_license)
    for name, split in data.splits.items():
        with data.file(name).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != split.sha256:
                raise ValueError(f"{data.file(name)} does not have the sha256 of its manifest: encode again.")
        if data.format == "webdataset":
            data.image_names(name)
    if own_license and own_license != settings(data).get("own_license"):
        manifest = load_json(folder / "manifest.json")
        manifest["settings"]["own_license"] = own_license
        write_text(folder / "manifest.json", json.dumps(manifest, indent=1))
        write_card(folder)
    elif not (folder / CARD).is_file():
        write_card(folder)
    names = [CARD, FILE, "label_space.json", *(split.file for split in data.splits.values())]
    names += [Path(split.file).with_suffix(".idx").name for split in data.splits.values()]
    files: dict[str, Path | bytes] = {name: folder / name for name in names if (folder / name).is_file()}
    files["manifest.json"] = _manifest(folder)
    found = contents(data)
    return Parcel("dataset", files, f"a data set of {found.num_images:,} images, {found.num_own:,} of them your own")


def _require_permitted(data: EncodedDataset, own_license: str) -> None:
    found = contents(data)
    forbidden = {said for said in found.licenses if not ((may := permits(said)) and may.changed_copies)}
    if forbidden:
        known, unknown = counted({said: found.licenses[said] for said in forbidden})
        parts = [f"{number:,} {name}" for name, number in known.items()]
        parts += [f"{number:,} {repr(name) if name else 'none told'}, nobody knows" for name, number in unknown.items()]
        images = [credit for credit in read_credits(data.path) if credit.license in forbidden]
        shown = [f"{credit.class_name}, {shown_url(credit.url)}" for credit in images]
        raise ValueError(
            f"the licenses of {len(images):,} images of {data.path} forbid to pass on changed copies ({listed(parts)}):"
            f" {listed(shown, 3)}. Encode with --licenses redistributable."
        )
    own = own_license or found.own_license
    if found.num_own and not own:
        raise ValueError(
            f"nobody has told the license of {found.num_own:,} images of {data.path}, those that you brought: say it "
            "with --own-license, such as cc-by-4.0."
        )
    if found.num_own and (may := permits(own)) and not may.changed_copies:
        raise ValueError(f"{own}, the license of your own images, forbids to pass on changed copies.")


def _manifest(folder: Path) -> bytes:
    """Without names of files on this machine."""
    manifest = load_json(folder / "manifest.json")
    told = manifest["settings"]
    told["skipped_broken"] = []
    if isinstance(filtered := (told.get("catalog") or {}).get("filter"), dict):
        told["catalog"]["filter"] = without_run(filtered)
    return json.dumps(manifest, indent=1).encode()


def _ask(parcel: Parcel, where: str, private: bool, yes: bool) -> None:
    sizes = {name: len(what) if isinstance(what, bytes) else what.stat().st_size for name, what in parcel.files.items()}
    print(f"{parcel.said}, to {where} ({'private' if private else 'for everybody to see'}):")
    for name, size in sizes.items():
        print(f"{size:>16,}  {name}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise ValueError("nothing was pushed: nobody is there to be asked; --yes says that you mean it.")
    if input(f"push {sum(sizes.values()):,} bytes? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ValueError("nothing was pushed, as you did not say yes.")


def _pushed(parcel: Parcel, folder: Path, repository: str, endpoint: str, private: bool, token: str) -> str:
    if endpoint != _HUB:
        os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # which that one alone has
    from huggingface_hub import CommitOperationAdd, HfApi

    secrets = Secrets([token])
    api = HfApi(endpoint=endpoint, token=token)

    def tried(call: Callable[[], Any], may_be_missing: bool = False) -> Any:
        try:
            return call()
        except Exception as error:  # of many kinds, by versions of huggingface_hub
            if may_be_missing and getattr(getattr(error, "response", None), "status_code", 0) == 404:
                return None
            why = one_line(secrets.hide(str(error)), 400).rstrip(".")
            if isinstance(error, KeyError | TypeError | AttributeError | json.JSONDecodeError):
                why = f"it does not answer as a hub does ({why})"
            raise ValueError(f"{shown_url(endpoint)} did not take {repository}: {why}.") from None

    found = tried(lambda: api.repo_info(repository, repo_type=parcel.kind), may_be_missing=True)
    if found is None:
        tried(lambda: api.create_repo(repository, repo_type=parcel.kind, private=private, exist_ok=True))
    elif private and not found.private:
        raise ValueError(f"{repository} is there, and everybody sees it: make it private first, or take another.")
    operations = [CommitOperationAdd(name, what) for name, what in _openable(parcel.files).items()]
    message = f"{folder.absolute().name}, by fastlt publish"
    done = tried(lambda: api.create_commit(repository, operations, commit_message=message, repo_type=parcel.kind))
    return f"published: {secrets.hide(str(done.commit_url))}"


def _openable(files: Mapping[str, Path | bytes]) -> dict[str, str | bytes]:
    return {name: what if isinstance(what, bytes) else str(what) for name, what in files.items()}
