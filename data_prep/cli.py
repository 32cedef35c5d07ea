"""The data stages as commands: discover, crawl, merge, push, pull, filter, status, review, encode, remove."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections import Counter
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from fastlt.cores import available_cores
from fastlt.data_prep.crawl.options import CrawlOptions, SearchOptions
from fastlt.data_prep.discover.options import DiscoverOptions, EndpointOptions, TaxonomyOptions
from fastlt.data_prep.encode.inputs import EncodeInputs
from fastlt.data_prep.encode.options import EncodeOptions
from fastlt.data_prep.filter.options import EncoderOptions, FilterOptions
from fastlt.data_prep.inputs.images import TargetImages
from fastlt.data_prep.remove.wanted import Wanted
from fastlt.messages import listed
from fastlt.options import (
    CatalogFile,
    Flag,
    OptionalAddress,
    OptionalFile,
    OptionalFolder,
    OptionalSource,
    OptionError,
    typed_options,
)
from fastlt.places import is_url

if TYPE_CHECKING:
    from fastlt.data_prep.catalog import Catalog
    from fastlt.data_prep.crawl.crawl import Crawled
    from fastlt.data_prep.crawl.parts.shares import Share
    from fastlt.data_prep.inputs.class_lists import TargetClass


@dataclass(frozen=True)
class Discover:
    """Name auxiliary categories of every target class: by a language model, by a taxonomy, or by both.

    Class names and counts go in, categories and neighbor pairs come out. Stopped in any way, the same command goes on
    where it was and asks nothing again that was answered. With --taxonomy and --model, the model is asked for what the
    taxonomy lacks.
    """

    catalog: CatalogFile
    """The catalog file, made if there is none."""
    classes: Annotated[Path, arg(metavar="SOURCE")]
    """The target classes: text with a line `name<TAB>count` for each, a CSV, lists of ImageNet, CUB and Places365, a
    split file, JSON {name: count} or {name: {"count", "title", "synonyms"}}, COCO's or iNaturalist's JSON with
    "categories", or a folder of class folders."""
    endpoint: OmitArgPrefixes[EndpointOptions]
    question: OmitArgPrefixes[DiscoverOptions] = field(default_factory=DiscoverOptions)
    siblings: OmitArgPrefixes[TaxonomyOptions] = field(default_factory=TaxonomyOptions)
    counts: OptionalSource = None
    """The training images of each class, in any of the same forms; it may also say what codes like n01440764 mean."""
    neighbors_out: OptionalFile = None
    """Write {target: [category, ...]} to this file too."""
    plan: Flag = False
    """Say how many questions there are and how many tokens they take, and stop: nobody is asked, nothing is written."""
    synonyms: Flag = False
    """Ask the model for other names of each category too, by which `fastlt crawl --captions` looks for it."""
    price: Annotated[tuple[float, float] | None, arg(metavar="IN OUT", help_behavior_hint="")] = None
    """With --plan: what a million tokens asked and a million answered cost."""

    def __post_init__(self) -> None:
        if self.price is not None and not (self.plan and all(0 <= part < math.inf for part in self.price)):
            raise OptionError("--price belongs to --plan, and is two amounts of money such as 0.15 0.60.")
        if self.endpoint.model and not self.plan:
            self.endpoint.require_someone()

    def run(self) -> None:
        from fastlt.atomic import write_text
        from fastlt.data_prep.catalog import Catalog
        from fastlt.data_prep.discover.discover import discover, in_short
        from fastlt.data_prep.discover.plan import plan
        from fastlt.data_prep.discover.prompt import Prompt
        from fastlt.data_prep.discover.synonyms import add_synonyms
        from fastlt.data_prep.inputs.class_lists import read_targets

        if not (self.endpoint.model or self.siblings.taxonomy):
            raise OptionError("say who names categories: a language model by --model NAME, or --taxonomy FILE.")
        if self.synonyms and not self.endpoint.model:
            raise OptionError("--synonyms are asked of a language model: give --model NAME.")
        Prompt.read(self.question.prompt)  # mistakes show before there is a catalog
        classes = read_targets(self.classes, self.counts)
        if self.plan:
            if not self.endpoint.model:
                raise OptionError("--plan is about what a language model is asked: give --model NAME.")
            with Catalog(self.catalog) if self.catalog.exists() else nullcontext() as known:
                print(plan(known, classes, self.endpoint, self.question, self.price, self.synonyms))
            return
        lines: list[str] = []
        with Catalog(self.catalog, create=True) as catalog:
            marks = self._look_up(catalog, classes)
            # Answers are committed as they come, so Ctrl-C ends at once: canceling what is in flight was seen to hang.
            before = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
            try:
                found = discover(catalog, classes, self.endpoint, self.question) if self.endpoint.model else None
                lines = add_synonyms(catalog, self.endpoint) if self.synonyms else []
            finally:
                signal.signal(signal.SIGINT, before)
            if found and found.asked:
                marks = self._look_up(catalog, classes, again=True)  # what the model named
            print("\n".join(marks), end="\n" * bool(marks))
            status, neighbors = catalog.status(), catalog.neighbors()
        if self.neighbors_out:
            write_text(self.neighbors_out, json.dumps(neighbors, ensure_ascii=False, indent=1) + "\n")
        print("\n".join([found.sentence(self.catalog, status) if found else in_short(self.catalog, status), *lines]))

    def _look_up(self, catalog: Catalog, classes: list[TargetClass], again: bool = False) -> list[str]:
        """Adds siblings and says so; returns which categories are marked."""
        if not self.siblings.taxonomy:
            return []
        from fastlt.data_prep.discover.taxonomy.neighbors import add_siblings  # brings DuckDB

        added = add_siblings(catalog, classes, self.siblings, self.question)
        if not again:
            print("\n".join(added.lines), flush=True)
        if self.endpoint.model or not added.empty:
            return added.marks
        if len(added.empty) == added.wanting:
            raise ValueError(
                "no target class has any category: see above for the reasons. Taxonomies have scientific names, some "
                "of them common ones too: titles and synonyms in the class list may say how a class is called there."
            )
        said = f"{len(added.empty):,} of {added.wanting:,} target classes have NO category: {listed(added.empty)}"
        print(f"fastlt: warning: {said}", file=sys.stderr)
        return added.marks


@dataclass(frozen=True)
class Crawl:
    """Fetch images of the auxiliary categories into WebDataset shards.

    Images come from public image sources, which are asked for each category, from a list of URLs, from captioned URLs
    whose captions name a category, or from a dump of metadata that is joined to the categories. If it is interrupted,
    run the same command again to continue.
    """

    catalog: CatalogFile
    """The catalog file; the shards go beside it."""
    search: OmitArgPrefixes[SearchOptions] = field(default_factory=SearchOptions)
    crawl: Annotated[OmitArgPrefixes[CrawlOptions], arg(name="")] = field(default_factory=CrawlOptions)
    plan: Flag = False
    """Read lists and dumps, say what each host would be asked for and how long its limits make that, and stop: nobody
    is asked, and the catalog stays as it is."""

    def run(self) -> None:
        from fastlt.data_prep.catalog import Catalog
        from fastlt.data_prep.crawl.crawl import crawl
        from fastlt.data_prep.crawl.enter import enter
        from fastlt.data_prep.crawl.host_limits import Policies
        from fastlt.data_prep.crawl.plan import plan
        from fastlt.data_prep.crawl.policy import ANY_LICENSE
        from fastlt.data_prep.crawl.sources import SOURCES
        from fastlt.data_prep.status import shown
        from fastlt.licenses import allowed

        search = self.search
        if not self.crawl.politeness.contact and not self.plan:
            raise OptionError(
                "say how sites can reach you: --contact you@example.org, or a page, or set FASTLT_CONTACT."
            )
        if self.crawl.in_parts:
            self._run_parts()
            return
        asked_for = {*search.source, *({"inaturalist"} & {*(search.dump or ())[:1]})}
        endpoints = dict(entry.partition("=")[::2] for entry in search.source_url)
        if unused := sorted(name for name, url in endpoints.items() if not url or name not in asked_for):
            raise OptionError(
                f"--source-url {unused[0]}: give NAME=URL, with a NAME that --source has, or `inaturalist` with --dump "
                "inaturalist."
            )
        unknown = sorted({*search.source, *endpoints} - set(SOURCES))
        if unknown:
            raise OptionError(f"there is no image source {unknown[0]!r}, only {', '.join(SOURCES)}.")
        if search.licenses != (ANY_LICENSE,):
            allowed(search.licenses or None)  # mistakes show before there is a catalog
        Policies(self.crawl.politeness)  # likewise
        with Catalog(self.catalog, create=search.urls is not None) as catalog:
            with catalog.lock("crawl"), catalog.rehearsal() if self.plan else nullcontext():
                search, options, lines = enter(catalog, search, self.crawl, typed_options(self), endpoints)
                licenses = None if search.licenses == (ANY_LICENSE,) else search.licenses or None
                sources = [SOURCES[name](endpoints.get(name), licenses) for name in search.source]
                if self.plan:
                    lines.append(plan(catalog, sources, options))
                print("\n".join(lines), end="\n" * bool(lines), flush=True)
            if self.plan:
                return
            crawled = crawl(catalog, sources, options)
            counts = crawled.counts
            _print_outcomes(counts)
            if not (counts or options.list_only or crawled.waiting):
                print("nothing was left to fetch")
            if options.list_only:
                _warn(crawled, options)
                print(f"{catalog.num_waiting():,} URLs of {len(catalog.waiting_hosts()):,} hosts wait to be fetched")
                return
            empty, failed = catalog.empty_categories(), catalog.failed_searches()
            num_failed = sum(catalog.status()["candidate"].get("failed", {}).values())
        for reason, number in failed:
            said = f"WARNING: {number:,} searches failed ({shown(reason)}); the same command asks again."
            print(said, file=sys.stderr)
        _warn(crawled, options)
        if num_failed:
            print(f"WARNING: {num_failed:,} URLs failed; --retry tries them again.", file=sys.stderr)
        if empty:
            categories = "category" if len(empty) == 1 else "categories"
            print(f"WARNING: no image of {len(empty):,} {categories} was found: {listed(empty)}.", file=sys.stderr)
        print(f"shards: {catalog.shards_folder}")
        failed_now = sum(number for (state, _), number in counts.items() if state == "failed")
        if failed_now and not options.retry and not any(state == "fetched" for state, _ in counts):
            raise ValueError(f"nothing new was fetched: {failed_now:,} URLs failed, for the reasons above.")

    def _run_parts(self) -> None:
        """Fetches what the catalog has, one part of it or all."""
        from fastlt.data_prep.catalog import Catalog
        from fastlt.data_prep.crawl.parts.lease import LeaseLostError
        from fastlt.data_prep.crawl.parts.on_ray import crawl_on_ray
        from fastlt.data_prep.crawl.parts.on_this_machine import crawl_on_this_machine
        from fastlt.data_prep.crawl.parts.part import parts_of
        from fastlt.data_prep.crawl.parts.shares import Share

        if self.plan:
            raise OptionError("--plan is about the whole catalog: leave out --part, --parts and --ray.")
        if self.search != SearchOptions() or self.crawl.list_only:
            raise OptionError(
                f"{self.crawl.in_parts} fetches what the catalog has: enter it first by `fastlt crawl {self.catalog} "
                "--list-only` with those options, then run the parts without them."
            )
        with Catalog(self.catalog) as whole:
            if whole.next_host("") is None and not whole.num_candidates():
                raise ValueError(
                    f"{self.catalog} has no URLs to share out: enter them first by `fastlt crawl {self.catalog} "
                    "--list-only` with --dump, --urls, --captions or --source."
                )
        options = self.crawl
        if options.in_parts == "--parts" and not options.workers:  # the parts share the cores
            options = replace(options, workers=math.ceil(available_cores() / options.parts) + 1)
        fetch = partial(_fetch_part, self.catalog.absolute(), options, typed_options(self))
        if options.ray is not None:
            begun = max((share.parts for share in parts_of(self.catalog)), default=0)
            crawl_on_ray(fetch, options.parts or begun, options.ray)
        elif options.part is not None:
            try:
                fetch(Share.parse(options.part))
            except LeaseLostError as error:
                raise ValueError(str(error)) from None
        else:
            crawl_on_this_machine(fetch, options.parts)
        print(f"when all parts are done: fastlt merge {self.catalog}")


def _fetch_part(catalog: Path, options: CrawlOptions, typed: Collection[str], share: Share) -> None:
    from fastlt.data_prep.crawl.crawl import crawl
    from fastlt.data_prep.crawl.parts.part import open_part
    from fastlt.data_prep.crawl.policy import as_remembered, reconsider

    with open_part(catalog, share, options.lease) as (part, claim):
        search, options, lines = as_remembered(part, SearchOptions(), options, typed)
        lines += reconsider(part, search, options)
        waiting = part.num_waiting()
        lines.append(f"{share}: {waiting:,} URLs of {len(part.waiting_hosts()):,} hosts")
        print("\n".join(lines), flush=True)
        if waiting or options.retry:
            crawled = crawl(part, [], options, claim)
            _print_outcomes(crawled.counts)
            print("".join(f"{share}: {line}\n" for line in crawled.waiting), end="")


def _warn(crawled: Crawled, options: CrawlOptions) -> None:
    """Says what waits, and what of --policy was of no use."""
    for line in crawled.waiting:
        print(f"WARNING: {line}; the same command goes on then.", file=sys.stderr)
    if crawled.unused:
        said = f"{options.politeness.policy} names hosts that this crawl has not met: {listed(crawled.unused)}"
        print(f"WARNING: {said}.", file=sys.stderr)


def _print_outcomes(counts: Counter[tuple[str, str]]) -> None:
    for (state, reason), number in counts.most_common():
        print(f"{number:>10,} {state}{f': {reason}' * bool(reason)}")


@dataclass(frozen=True)
class Merge:
    """Join the parts of a catalog, which `fastlt crawl --part` has fetched, into it.

    Images that several parts have are kept once. If it is interrupted, run the same command again to continue.
    """

    catalog: CatalogFile
    """The catalog file that is in parts."""
    unfinished: Flag = False
    """Join what there is, though parts are missing or not done; their URLs stay to be fetched."""

    def run(self) -> None:
        from fastlt.data_prep.crawl.parts.merge import merge

        counts, left = merge(self.catalog, self.unfinished)
        _print_outcomes(counts)
        for said in left:
            print(f"left: {said}")


@dataclass(frozen=True)
class Filter:
    """Keep the crawled images that show their category and repeat no validation or test image.

    What is kept is found from the images for the encoder in use. A category without neighbors gets the targets nearest
    to it. What costs time is kept beside the catalog, so other thresholds take seconds.
    """

    catalog: CatalogFile
    """The catalog file."""
    encoder: OmitArgPrefixes[EncoderOptions]
    target: OmitArgPrefixes[TargetImages] = field(default_factory=TargetImages)
    selection: OmitArgPrefixes[FilterOptions] = field(default_factory=FilterOptions)
    sheet: OptionalFile = None
    """The page with pictures of what was kept and dropped (default: CATALOG_sheet.html)."""
    strengths_out: OptionalFile = None
    """Write how alike target and category of each pair are, 1 for the most alike, to this file: `fastlt encode
    --neighbors` takes it, and the loss silences the pairs so much."""
    pictures: int = 8
    """Pictures on that page for each class and reason."""
    ray: OptionalAddress = None
    """Embed on a Ray cluster, whose machines share a file system with the catalog's folder and all images: its address,
    `auto` for that of this machine, or `local` for one made here."""

    def run(self) -> None:
        from fastlt.data_prep.catalog import Catalog
        from fastlt.data_prep.filter.contact_sheet import write_sheet
        from fastlt.data_prep.filter.embed import open_encoder
        from fastlt.data_prep.filter.filter import judge
        from fastlt.data_prep.filter.inputs import require_split
        from fastlt.data_prep.filter.judgment import summary, write_report, write_states, write_strengths
        from fastlt.data_prep.filter.on_ray import encoder_on_ray

        path = self.catalog
        require_split(self.target)
        with Catalog(path) as catalog, catalog.lock("filter"):
            held = open_encoder(self.encoder)
            with nullcontext(held) if self.ray is None else encoder_on_ray(held, self.ray) as encoder:
                judgment = judge(catalog, encoder, self.target, self.selection)
            sheet = self.sheet or path.with_name(f"{path.stem}_sheet.html")
            if judgment.num_kept:
                write_states(catalog, judgment)
            report = path.with_name(f"{path.stem}_filter.csv")
            write_report(catalog, judgment, report)
            if self.strengths_out:
                write_strengths(catalog, judgment, self.strengths_out)
            write_sheet(catalog, judgment, sheet, self.pictures)
            print(summary(catalog, judgment))
        print(f"written: {report}, {sheet}")
        judgment.require_kept()


@dataclass(frozen=True)
class Status:
    """Count what a catalog holds, stage by stage, with the reasons."""

    catalog: CatalogFile
    """The catalog file."""
    json: Flag = False
    """Print JSON, for scripts."""

    def run(self) -> None:
        from fastlt.data_prep.catalog import Catalog
        from fastlt.data_prep.status import as_shown, status_text, without_empty_reasons

        with Catalog(self.catalog) as catalog:
            found = as_shown(catalog.status())
        print(json.dumps(without_empty_reasons(found), indent=1) if self.json else status_text(found))


@dataclass(frozen=True)
class Push:
    """Send the finished shards of a catalog to an object store, those that are not there yet.

    What is here stays. If it is interrupted, run the same command again to continue.
    """

    catalog: CatalogFile
    """The catalog file, which is not sent."""
    url: Annotated[Positional[str], arg(metavar="URL")]
    """A place of their own, such as s3://bucket/birds_shards."""

    def run(self) -> None:
        from fastlt.data_prep.catalog import Catalog
        from fastlt.data_prep.shard_store import push

        with Catalog(self.catalog) as catalog:
            print(f"{push(catalog, self.url):,} finished shards are there")


@dataclass(frozen=True)
class Pull:
    """Bring the shards of a catalog from an object store, those that are not here, for filter and encode to read.

    If it is interrupted, run the same command again to continue.
    """

    catalog: CatalogFile
    """The catalog file, beside which they are put."""
    url: Annotated[Positional[str], arg(metavar="URL")]
    """Where `fastlt push` has sent them."""

    def run(self) -> None:
        from fastlt.data_prep.catalog import Catalog
        from fastlt.data_prep.shard_store import pull

        with Catalog(self.catalog) as catalog, catalog.lock("pull"):
            print(f"{pull(catalog, self.url):,} shards are here, beside {self.catalog}")


@dataclass(frozen=True)
class Encode:
    """Write images of target and auxiliary classes as an encoded data set, ready to train on.

    Says what it will cost before it starts. If it is interrupted, run the same command again to continue.
    """

    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """The folder to make, on a disk here."""
    input: OmitArgPrefixes[EncodeInputs] = field(default_factory=EncodeInputs)
    encoding: OmitArgPrefixes[EncodeOptions] = field(default_factory=EncodeOptions)
    check: Flag = False
    """Write nothing: read all of OUT, which is there, and say what is damaged."""
    upload: Annotated[str | None, arg(metavar="URL", help_behavior_hint="")] = None
    """Then copy OUT to this place of an object store, such as s3://bucket/birds, from which `fastlt train` can read
    it (data.path). An OUT that is there already is only copied."""
    ray: OptionalAddress = None
    """Read and store images on a Ray cluster, whose machines share a file system with all images: its address, `auto`
    for that of this machine, or `local` for one made here."""

    def __post_init__(self) -> None:
        if self.check and self.ray is not None:
            raise OptionError("--check reads OUT on this machine: leave out --ray.")
        if self.encoding.workers and self.ray is not None:
            raise OptionError(
                "--workers are processes of this machine, --ray takes each core of the cluster: give one."
            )

    def run(self) -> None:
        from fastlt.data_prep.encode.check import check_encoded
        from fastlt.data_prep.encode.encode import require_encode_of
        from fastlt.dataset.upload import Upload

        if is_url(_as_typed(self.out)):
            raise OptionError(f"{self.out}: OUT is a folder on a disk here; --upload URL then copies it to a store.")
        upload = Upload(self.out, self.upload) if self.upload else None
        if self.check:
            num_images = check_encoded(self.out, self.encoding.workers)
            print(f"{self.out}: all {num_images:,} images are whole, and files, index and labels agree")
            return
        if upload is None or not self.out.exists():
            self._encode()
        elif self.input != EncodeInputs():
            require_encode_of(self.out, self.input, self.encoding)
        if upload is not None:
            upload.run()

    def _encode(self) -> None:
        from fastlt.data_prep.encode.encode import encode

        space = encode(self.out, self.input, self.encoding, self.ray)
        print(
            f"{self.out}: {space.num_targets} target and {len(space.auxiliary_names)} auxiliary classes, "
            f"{len(space.neighbors)} neighbor pairs, {sum(space.counts):,} training images"
        )


@dataclass(frozen=True)
class Remove:
    """Take images out for good: by URL, author, license or category, from catalog, shards and encoded data sets.

    What is removed is overwritten, and not fetched again. If it is interrupted, run the same command again.
    """

    catalog: CatalogFile
    """The catalog file."""
    wanted: Annotated[OmitArgPrefixes[Wanted], arg(name="")] = field(default_factory=Wanted)
    encoded: Annotated[tuple[Path, ...], arg(metavar="FOLDER [FOLDER ...]", help_behavior_hint="")] = ()
    """Encoded data sets that were made from this catalog: each is written anew without all that was ever removed."""
    dry_run: Flag = False
    """Only say what would be removed."""

    def __post_init__(self) -> None:
        for folder in self.encoded:
            if is_url(_as_typed(folder)):
                raise OptionError(
                    f"{_as_typed(folder)}: --encoded names folders on a disk here. Remove from the folder that was "
                    "uploaded, upload it under another name, and delete that one."
                )

    def run(self) -> None:
        from fastlt.data_prep.catalog import Catalog
        from fastlt.data_prep.remove.remove import remove

        with Catalog(self.catalog) as catalog, catalog.lock("remove"):
            said, left = remove(catalog, self.wanted, self.encoded, self.dry_run)
        print("\n".join(said))
        if left:
            raise ValueError(f"left to do: {'; '.join(left)}.")


@dataclass(frozen=True)
class Review:
    """Look at categories and images in a browser on this machine, and decide otherwise than the stages did.

    Decisions are kept in the catalog, win over filter's, and are what encode takes. Prints the page's address.
    """

    catalog: CatalogFile
    """The catalog file, before a crawl or after."""
    train: OptionalSource = None
    """Training images of the target classes, to be shown beside their categories: class folders, a split file, or an
    encoded data set."""
    images: OptionalFolder = None
    """The folder that the paths of a split file are relative to."""
    port: int = 0
    """The port of the page's server; 0 takes one that is free."""
    export: OptionalFile = None
    """Write all decisions to this file, a JSON object a line, and stop."""
    apply: OptionalFile = None
    """Follow the decisions of such a file, also of another catalog, and stop."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise OptionError(f"--port is {self.port}; give a number below 65,536, or 0 for one that is free.")
        if (self.export or self.apply) and (self.train or self.images or self.port or (self.export and self.apply)):
            raise OptionError("--export and --apply show no page: give one of them, alone.")

    def run(self) -> None:
        from fastlt.data_prep.catalog import Catalog
        from fastlt.data_prep.review.exchange import apply_decisions, write_decisions

        if self.export or self.apply:
            with Catalog(self.catalog) as catalog:
                if self.apply:
                    print("\n".join(apply_decisions(catalog, self.apply)))
                elif self.export:
                    print(f"written: {self.export}, {write_decisions(catalog, self.export):,} decisions")
            return
        from fastlt.data_prep.review.desk import Desk
        from fastlt.data_prep.review.pictures import TargetPictures

        try:
            from fastlt.data_prep.review.server import serve
        except ModuleNotFoundError as error:
            raise ValueError(f"the page needs {error.name}: pip install 'fastlt[review]'.") from None
        if self.train and not self.train.exists():
            raise ValueError(f"there is no {self.train}: --train says where the training images are.")
        desk = Desk(self.catalog, TargetPictures(self.train, self.images))
        try:
            serve(desk, self.port)
        finally:
            desk.close()


def _as_typed(path: Path) -> str:
    """A path that may be a URL, of whose two slashes it has made one."""
    return str(path).replace(":/", "://", 1)


COMMANDS = {
    "discover": Discover,
    "crawl": Crawl,
    "merge": Merge,
    "push": Push,
    "pull": Pull,
    "filter": Filter,
    "status": Status,
    "review": Review,
    "encode": Encode,
    "remove": Remove,
}
