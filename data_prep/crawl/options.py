"""What a crawl is told: where to look, how politely, within which limits, and what is kept."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, UseAppendAction, arg

from fastlt.data_prep.crawl.image_options import ImageOptions
from fastlt.data_prep.crawl.parts.shares import MOST
from fastlt.options import Flag, Names, OptionalAddress, OptionalFile, OptionalSource, OptionalText, OptionError

_COLUMNS_OF_URLS = ("url_column", "label_column", "license_column", "attribution_column", "page_column")
_COLUMNS_OF_CAPTIONS = ("url_column", "license_column", "caption_column", "similarity_column")
_COLUMNS_OF_PARQUET = ("name_column", "url_column", "license_column", "attribution_column", "page_column")
_DUMPS = ("inaturalist", "gbif", "parquet")


@dataclass(frozen=True)
class SearchOptions:
    """Where images are found: image sources that are asked for each category, lists of URLs, dumps, or several."""

    source: Names = ()
    """Image sources: inaturalist, gbif, commons, openverse."""
    source_url: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=URL", help_behavior_hint="")] = ()
    """Another endpoint of a source, or another place of the photos of `--dump inaturalist`; may be given several
    times."""
    licenses: Names = ()
    """License families that are allowed, such as cc0 pdm cc-by, or any (default: as before in the catalog; at first
    every Creative Commons license from image sources, any from a list)."""
    urls: OptionalSource = None
    """A list of URLs: CSV, TSV, Parquet, JSON, JSON lines, text, packed or not, or a folder of these."""
    url_column: OptionalText = None
    """The column of the list that holds URLs, by name, or by number where it has no names (default: found by its name
    and content)."""
    label_column: OptionalText = None
    """The column that holds categories, or `none` (default: as before for this list, else found by its name)."""
    license_column: OptionalText = None
    """The column that holds licenses, or `none` (default: found)."""
    attribution_column: OptionalText = None
    """The column that says whom to credit, or `none` (default: found)."""
    page_column: OptionalText = None
    """The column with the page where people see the image, or `none` (default: found)."""
    captions: Annotated[str | None, arg(metavar="FILES", help_behavior_hint="")] = None
    """Captioned URLs such as DataComp's, Re-LAION's or CC12M's, as a file, a folder or a quoted pattern: those whose
    caption names a category are taken."""
    caption_column: OptionalText = None
    """The column of captions (default: found by its name)."""
    similarity_column: OptionalText = None
    """The column that says how like image and caption are, or `none` (default: found by its name)."""

    dump: Annotated[tuple[str, str] | None, arg(metavar="KIND PATH", help_behavior_hint="")] = None
    """A dump of metadata that is joined to the categories by name: `inaturalist DIR` of its open data, `gbif ARCHIVE`
    of Darwin Core, or `parquet FILES` with --name-column and --url-column."""
    name_column: OptionalText = None
    """The column of a Parquet dump that holds names of categories."""
    dump_ancestor: OptionalText = None
    """A taxon such as Animalia: what the dump does not have below it is left out."""
    any_grade: Flag = False
    """Take photos of iNaturalist's observations of every grade, not of research grade alone."""
    exclude: Annotated[tuple[Path, ...], arg(metavar="FILE [FILE ...]", help_behavior_hint="")] = ()
    """Lists of what is left out of iNaturalist's dump: numbers of photos, UUIDs of photos or observations, one a
    line."""

    def __post_init__(self) -> None:
        kind = self.dump[0] if self.dump else ""
        lists = [f"--{name}" for name in ("urls", "captions", "dump") if getattr(self, name)]
        if len(lists) > 1:
            raise OptionError(f"{lists[0]} and {lists[1]} are two ways to read a list: give one of them at a time.")
        if kind and kind not in _DUMPS:
            raise OptionError(f"--dump {kind}: there are dumps of {', '.join(_DUMPS)}.")
        read = {"urls": _COLUMNS_OF_URLS, "captions": _COLUMNS_OF_CAPTIONS, "dump parquet": _COLUMNS_OF_PARQUET}
        given = {"urls": self.urls, "captions": self.captions, "dump parquet": kind == "parquet"}
        for column in dict.fromkeys([*_COLUMNS_OF_URLS, *_COLUMNS_OF_CAPTIONS, *_COLUMNS_OF_PARQUET]):
            by = [option for option, columns in read.items() if column in columns]
            if getattr(self, column) is not None and not any(given[option] for option in by):
                raise OptionError(
                    f"--{column.replace('_', '-')} is about a list: name the list with --{' or --'.join(by)}."
                )
        if kind == "parquet" and not (self.name_column and self.url_column):
            raise OptionError(
                "--dump parquet: say which columns hold names and URLs, by --name-column and --url-column."
            )
        for option, kinds in (("any_grade", _DUMPS[:1]), ("exclude", _DUMPS[:1]), ("dump_ancestor", _DUMPS[:2])):
            if getattr(self, option) and kind not in kinds:
                raise OptionError(f"--{option.replace('_', '-')} is about --dump {' or '.join(kinds)}.")


@dataclass(frozen=True)
class Politeness:
    """How hosts are treated."""

    contact: Annotated[str, arg(metavar="TEXT", help_behavior_hint="")] = field(
        default_factory=lambda: os.environ.get("FASTLT_CONTACT", "")
    )
    """Your e-mail address or page, which every site is told (default: $FASTLT_CONTACT)."""
    connections: int = 256
    """Transfers at once, in all."""
    per_host: int = 4
    """Transfers at once from one host."""
    rate: float = 10.0
    """Requests per second to one host; 0 sets no limit."""
    api_rate: float = 1.0
    """Requests per second to the API of an image source; 0 sets no limit."""
    policy: OptionalFile = None
    """Limits of hosts in the form of data_prep/crawl/limits.yaml. They hold instead of --rate, --api-rate, --per-host
    and of what that file says of them."""
    ignore_robots: Flag = False
    """Do not read robots.txt."""
    ignore_opt_outs: Flag = False
    """Take images whose headers say noai, noindex and the like."""

    def __post_init__(self) -> None:
        for name, value, least in (
            ("--connections", self.connections, 1),
            ("--per-host", self.per_host, 1),
            ("--rate", self.rate, 0),
            ("--api-rate", self.api_rate, 0),
        ):
            if value < least:
                raise OptionError(f"{name} is {value}: nothing could be fetched; give at least {least}.")


@dataclass(frozen=True)
class Limits:
    """Limits on downloads and images."""

    max_megabytes: float = 20.0
    """Largest file that is fetched, in MB."""
    max_megapixels: float = 100.0
    """Largest image that is decoded, in millions of pixels, for each of which a decoder may take 12 bytes of memory."""
    timeout: float = 60.0
    """Seconds for one transfer."""
    allow_private: Flag = False
    """Fetch from addresses of your own network too."""

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.timeout <= 0:
            raise OptionError(
                f"--max-megabytes {self.max_megabytes} and --timeout {self.timeout}: nothing could be fetched; both "
                "must be above 0."
            )

    @property
    def max_bytes(self) -> int:
        """Of a body."""
        return int(self.max_megabytes * 2**20)

    @property
    def max_pixels(self) -> int:
        """Width x height above which an image is dropped undecoded."""
        return int(self.max_megapixels * 1e6)


@dataclass(frozen=True)
class ShardOptions:
    """How images are stored."""

    keep_original: Flag = False
    """Store the fetched file beside the JPEG that is made of it."""
    duplicates: int = 4
    """Bits in which perceptual hashes of duplicates may differ; -1 drops only files with the same bytes."""
    images_per_shard: int = 10_000
    """Images in one shard."""

    def __post_init__(self) -> None:
        if self.images_per_shard < 1:
            raise OptionError(f"--images-per-shard is {self.images_per_shard}; give at least 1.")


@dataclass(frozen=True)
class CrawlOptions:
    """How a crawl goes."""

    politeness: OmitArgPrefixes[Politeness] = field(default_factory=Politeness)
    limits: OmitArgPrefixes[Limits] = field(default_factory=Limits)
    images: OmitArgPrefixes[ImageOptions] = field(default_factory=ImageOptions)
    shards: OmitArgPrefixes[ShardOptions] = field(default_factory=ShardOptions)
    per_category: int = 100
    """Candidates sought for each category."""
    workers: int = 0
    """Processes that decode images; 0 starts one more than there are cores."""
    retry: Flag = False
    """Try again what failed in an earlier crawl."""
    list_only: Flag = False
    """Enter what sources, lists and dumps offer, and fetch nothing: another run does, or several with --part."""
    part: Annotated[str | None, arg(metavar="K/N", help_behavior_hint="")] = None
    """Fetch one of several parts, such as 3/64, which share out the hosts of the catalog; `fastlt merge` joins them."""
    ray: OptionalAddress = None
    """Fetch all parts on a Ray cluster: its address, `auto` for that of this machine, or `local` for one made here."""
    parts: int = 0
    """Fetch all of so many parts, each in a process of this machine; with --ray there, 0 for as many as were begun, or
    one on each machine."""
    lease: float = 60.0
    """Seconds without a sign of life after which another process may go on with a part."""

    def __post_init__(self) -> None:
        if self.per_category < 1:
            raise OptionError(f"--per-category is {self.per_category}; give at least 1.")
        if self.workers < 0:
            raise OptionError(f"--workers is {self.workers}; give a number of processes, or 0 for all cores.")
        if self.part is not None and self.ray is not None:
            raise OptionError("--part is one part and --ray is all of them: give one of the two.")
        if self.parts and self.part is not None:
            raise OptionError("--part is one part and --parts is all of them: give one of the two.")
        if not 0 <= self.parts <= MOST:
            raise OptionError(f"--parts is {self.parts}; give a number up to {MOST:,}.")
        if self.lease <= 0:
            raise OptionError(f"--lease is {self.lease}; give a number of seconds above 0.")

    @property
    def in_parts(self) -> str:
        """The option by which the catalog is fetched in parts, "" where it is fetched as a whole."""
        given = {"--part": self.part is not None, "--ray": self.ray is not None, "--parts": self.parts > 0}
        return next((option for option, is_given in given.items() if is_given), "")
