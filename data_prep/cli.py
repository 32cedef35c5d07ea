"""The data stages of the `fastlt` command: discover, crawl, filter, status."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path


def add_crawl(commands) -> None:
    command = commands.add_parser("crawl", help="images of auxiliary categories into WebDataset shards")
    command.add_argument("catalog", type=Path, metavar="CATALOG", help="the catalog file; shards go beside it")
    group = command.add_argument_group("where images are found")
    group.add_argument("--source", nargs="+", default=[], metavar="NAME", help="inaturalist, gbif, commons, openverse")
    group.add_argument(
        "--source-url", action="append", default=[], metavar="NAME=URL", help="another endpoint of a source"
    )
    group.add_argument("--licenses", nargs="+", metavar="FAMILY", help="cc0, pdm, cc-by, ... (default: all of these)")
    group.add_argument("--per-category", type=int, default=100, metavar="N", help="candidates sought (default 100)")
    group.add_argument(
        "--urls", type=Path, metavar="LIST", help="CSV, TSV, Parquet, JSON lines, text, or a folder of it"
    )
    group.add_argument("--url-column", metavar="NAME", help="default: url")
    group.add_argument("--label-column", metavar="NAME", help="of the category (default: label, class or category)")
    group = command.add_argument_group("manners")
    contact = os.environ.get("FASTLT_CONTACT")
    group.add_argument(
        "--contact", default=contact, help="your e-mail address or page, told to every site (or $FASTLT_CONTACT)"
    )
    group.add_argument("--connections", type=int, default=256, metavar="N", help="at once (default 256)")
    group.add_argument("--per-host", type=int, default=4, metavar="N", help="at once from one host (default 4)")
    group.add_argument(
        "--rate", type=float, default=10.0, metavar="R", help="requests a second to a host (default 10; 0: any)"
    )
    group.add_argument(
        "--api-rate",
        type=float,
        default=1.0,
        metavar="R",
        help="requests a second to a source's API (default 1; 0: any)",
    )
    group.add_argument("--ignore-robots", action="store_true", help="do not read robots.txt")
    group.add_argument("--ignore-opt-outs", action="store_true", help="take what is marked noai, noindex and the like")
    group = command.add_argument_group("limits")
    group.add_argument("--max-megabytes", type=float, default=20.0, metavar="MB", help="of a file (default 20)")
    group.add_argument("--max-megapixels", type=float, default=100.0, metavar="MP", help="of an image (default 100)")
    group.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds of one transfer (default 60)")
    group.add_argument("--allow-private", action="store_true", help="ask addresses of your own network too")
    group = command.add_argument_group("what is kept")
    group.add_argument(
        "--size", type=int, default=256, metavar="PX", help="shorter side, never enlarged (default 256; 0: as is)"
    )
    group.add_argument("--quality", type=int, default=90, metavar="Q", help="JPEG quality (default 90)")
    group.add_argument("--min-side", type=int, default=32, metavar="PX", help="smaller images are dropped (default 32)")
    group.add_argument("--keep-original", action="store_true", help="the fetched bytes too")
    group.add_argument(
        "--duplicates",
        type=int,
        default=4,
        metavar="BITS",
        help="perceptual distance of duplicates (default 4; -1: equal bytes only)",
    )
    group.add_argument("--images-per-shard", type=int, default=10_000, metavar="N", help="default 10000")
    command.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: one more than cores)")
    command.add_argument("--retry", action="store_true", help="try what failed before again")
    command.set_defaults(run_command=_crawl)


def _crawl(arguments: argparse.Namespace) -> None:
    from fastlt.data_prep.catalog import Catalog
    from fastlt.data_prep.crawl import CrawlOptions, crawl, empty_categories, failed_searches, import_urls
    from fastlt.data_prep.fetch import FetchOptions
    from fastlt.data_prep.pixels import PixelOptions
    from fastlt.data_prep.politeness import Manners
    from fastlt.data_prep.sources import SOURCES

    if not arguments.contact:
        raise ValueError("say how sites can reach you: --contact you@example.org, or a page, or set FASTLT_CONTACT.")
    endpoints = dict(entry.partition("=")[::2] for entry in arguments.source_url)
    unknown = sorted({*arguments.source, *endpoints} - set(SOURCES))
    if unknown:
        raise ValueError(f"there is no image source {unknown[0]!r}, only {', '.join(SOURCES)}.")
    sources = [SOURCES[name](endpoints.get(name), arguments.licenses) for name in arguments.source]
    options = CrawlOptions(
        fetch=FetchOptions(
            contact=arguments.contact,
            connections=arguments.connections,
            manners=Manners(arguments.per_host, arguments.rate),
            max_bytes=int(arguments.max_megabytes * 2**20),
            timeout=arguments.timeout,
            robots=not arguments.ignore_robots,
            opt_outs=not arguments.ignore_opt_outs,
            allow_private=arguments.allow_private,
        ),
        pixels=PixelOptions(
            arguments.size or None, arguments.quality, int(arguments.max_megapixels * 1e6), arguments.min_side
        ),
        per_category=arguments.per_category,
        api_rate=arguments.api_rate,
        images_per_shard=arguments.images_per_shard,
        duplicates=None if arguments.duplicates < 0 else arguments.duplicates,
        keep_original=arguments.keep_original,
        workers=arguments.workers,
        retry=arguments.retry,
    )
    with Catalog(arguments.catalog, create=arguments.urls is not None) as catalog:
        if arguments.urls:
            new = import_urls(catalog, arguments.urls, arguments.url_column, arguments.label_column)
            print(f"{arguments.urls}: {new:,} new URLs")
        counts = crawl(catalog, sources, options)
        for (state, reason), number in counts.most_common():
            print(f"{number:>10,} {state}{f': {reason}' * bool(reason)}")
        empty, failed = empty_categories(catalog), failed_searches(catalog)
    for reason, number in failed:
        print(f"WARNING: {number:,} searches failed ({reason}); --retry tries them again.", file=sys.stderr)
    for title in empty:
        print(f"WARNING: no image of {title!r} was found.", file=sys.stderr)
    print(f"shards: {catalog.shards_folder}")


def add_status(commands) -> None:
    command = commands.add_parser("status", help="counts of every stage of a catalog")
    command.add_argument("catalog", type=Path, metavar="CATALOG", help="the catalog file")
    command.add_argument("--json", action="store_true", help="for scripts")
    command.set_defaults(run_command=_status)


def _status(arguments: argparse.Namespace) -> None:
    from fastlt.data_prep.catalog import Catalog
    from fastlt.data_prep.status import status_text

    with Catalog(arguments.catalog) as catalog:
        found = catalog.status()
    print(json.dumps(found, indent=1) if arguments.json else status_text(found))


def add_discover(commands) -> None:
    command = commands.add_parser(
        "discover",
        help="a language model names auxiliary categories for every target class",
        description="Class names and counts in, auxiliary categories and neighbor pairs out. Run again after a stop of "
        "any kind, it goes on from there and asks nothing twice.",
    )
    add = command.add_argument
    add("catalog", type=Path, metavar="CATALOG", help="the catalog file, made if there is none")
    add(
        "--classes", type=Path, required=True, metavar="SRC",
        help='text with "name<TAB>count" lines, JSON {name: count} or {name: {"count", "title", "synonyms"}}, '
        'COCO\'s or iNaturalist\'s JSON with "categories", or a folder of class folders',
    )  # fmt: skip
    add("--counts", type=Path, metavar="SRC", help="the training images of each class, in any of the same forms")
    add("--model", required=True, metavar="M", help="the model's name at the endpoint")
    add("--base-url", metavar="URL", help="an OpenAI-compatible server, such as http://localhost:8000/v1")
    add("--key-env", default="OPENAI_API_KEY", metavar="NAME", help="variable that holds the key (OPENAI_API_KEY)")
    add(
        "--categories", default="3,5,8", metavar="N,N,N",
        help="wanted for classes with over 100, 20 to 100, and under 20 images; one number is for all (3,5,8)",
    )  # fmt: skip
    add("--rounds", type=int, default=4, metavar="N", help="asks a class that lacks categories so often (4)")
    add("--prompt", type=Path, metavar="FILE", help="instead of data_prep/discover_prompt.md, which says how")
    add("--concurrency", type=int, default=8, metavar="N", help="questions at a time (8)")
    add("--max-tokens-total", type=int, metavar="N", help="tokens that the catalog may cost, over all runs")
    add("--tries", type=int, default=6, metavar="N", help="sends a question so often to a server that fails (6)")
    add("--max-wait", type=float, default=600, metavar="S", help="waits so long for a busy server (600)")
    add("--timeout", type=float, default=300, metavar="S", help="waits so long for an answer (300)")
    add("--neighbors-out", type=Path, metavar="FILE", help="writes {target: [category, ...]}")
    command.set_defaults(run_command=_discover)


def _discover(arguments: argparse.Namespace) -> None:
    from fastlt.data_prep.catalog import Catalog
    from fastlt.data_prep.class_names import read_classes
    from fastlt.data_prep.discover import DiscoverOptions, discover
    from fastlt.data_prep.discover_prompt import DEFAULT_PROMPT, Prompt
    from fastlt.data_prep.llm import Endpoint

    from fastlt.atomic import write_text

    endpoint = Endpoint.find(
        arguments.model,
        arguments.key_env,
        arguments.base_url,
        concurrency=arguments.concurrency,
        max_tokens_total=arguments.max_tokens_total,
        tries=arguments.tries,
        max_wait=arguments.max_wait,
        timeout=arguments.timeout,
    )
    options = DiscoverOptions(
        DiscoverOptions.parse_categories(arguments.categories), arguments.rounds, arguments.prompt or DEFAULT_PROMPT
    )
    Prompt.read(options.prompt)  # mistakes show before there is a catalog
    classes = read_classes(arguments.classes, arguments.counts)
    with Catalog(arguments.catalog, create=True) as catalog:
        # Answers are committed as they come, so Ctrl-C ends at once: canceling what is in flight was seen to hang.
        before = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        try:
            found = discover(catalog, classes, endpoint, options)
        finally:
            signal.signal(signal.SIGINT, before)
        status, neighbors = catalog.status(), catalog.neighbors()
    if arguments.neighbors_out:
        write_text(arguments.neighbors_out, json.dumps(neighbors, ensure_ascii=False, indent=1) + "\n")
    print(found.sentence(arguments.catalog, status))


def add_filter(commands) -> None:
    command = commands.add_parser(
        "filter",
        help="keep the crawled images that look like the targets, and none of the validation or test images",
        epilog="Small encoders find all images alike and know categories better than likeness to targets; "
        "there, try --own-category --gamma1 0.",
    )
    command.add_argument("catalog", type=Path, metavar="CATALOG", help="the catalog file")
    command.add_argument("--train", type=Path, required=True, metavar="SRC", help="class folders or split file")
    command.add_argument("--val", type=Path, metavar="SRC", help="validation images, folder or list: none is kept")
    command.add_argument("--test", type=Path, metavar="SRC", help="test images, folder or list: none is kept")
    command.add_argument("--images", type=Path, metavar="DIR", help="what the paths of split files are relative to")
    encoder = command.add_mutually_exclusive_group(required=True)
    encoder.add_argument("--run", type=Path, metavar="RUN", help="embed with the backbone of a fastlt run")
    encoder.add_argument("--model", metavar="NAME", help="embed with a timm model, for example DINOv2")
    weights = command.add_mutually_exclusive_group()
    weights.add_argument("--weights", type=Path, metavar="FILE", help="of --model")
    weights.add_argument("--pretrained", action="store_true", help="the weights that timm's hub has for --model")
    command.add_argument("--image-size", type=int, metavar="PX", help="of --model (default: the model's own)")
    command.add_argument(
        "--gamma1", type=_number_or_auto, default=0.7, metavar="G", help="keep above this similarity; or auto (0.7)"
    )
    command.add_argument("--gamma2", type=float, default=0.98, metavar="G", help="keep below this one (0.98)")
    command.add_argument(
        "--duplicate", type=float, default=0.95, metavar="C", help="cosine of near-duplicates of such images (0.95)"
    )
    command.add_argument(
        "--hash-radius", type=int, default=8, metavar="BITS", help="distance of their perceptual hashes (8)"
    )
    command.add_argument("--center", action="store_true", help="take the mean of the targets off all features")
    command.add_argument(
        "--own-category", action="store_true", help="drop what resembles another auxiliary category more than its own"
    )
    command.add_argument(
        "--wrong-share",
        type=float,
        default=0.2,
        metavar="A",
        help="share of images under a wrong name that --gamma1 auto and --own-category let pass (0.2)",
    )
    command.add_argument("--batch-size", type=int, default=128, metavar="N", help="images embedded at once (128)")
    command.add_argument("--workers", type=int, metavar="N", help="processes that read images (default: all cores)")
    command.add_argument("--sheet", type=Path, metavar="FILE", help="page with pictures (default: CATALOG_sheet.html)")
    command.add_argument("--pictures", type=int, default=8, metavar="N", help="of each class and reason (8)")
    command.set_defaults(run_command=_filter)


def _number_or_auto(word: str) -> float | None:
    return None if word == "auto" else float(word)


def _filter(arguments: argparse.Namespace) -> None:
    if not (arguments.val or arguments.test):
        raise ValueError("say with --val or --test, or both, which images no kept image may repeat.")
    if arguments.model and not (arguments.weights or arguments.pretrained):
        raise ValueError("--model needs --weights FILE or --pretrained: features of random weights mean nothing.")
    if arguments.run and (arguments.weights or arguments.pretrained or arguments.image_size):
        raise ValueError("--run brings its own weights and image size: leave out the options of --model.")
    from fastlt.data_prep.catalog import Catalog
    from fastlt.data_prep.contact_sheet import write_sheet
    from fastlt.data_prep.embed import run_encoder, timm_encoder
    from fastlt.data_prep.encode_inputs import Sources
    from fastlt.data_prep.filter import judge, summary, write_report, write_states
    from fastlt.data_prep.filter_options import FilterOptions

    names = ("gamma1", "gamma2", "duplicate", "hash_radius", "center", "own_category", "wrong_share", "batch_size")
    options = FilterOptions(workers=arguments.workers, **{name: getattr(arguments, name) for name in names})
    path = arguments.catalog
    with Catalog(path) as catalog, catalog.lock("filter"):
        if arguments.run:
            encoder = run_encoder(arguments.run)
        else:
            encoder = timm_encoder(arguments.model, arguments.weights, arguments.image_size)
        sources = Sources(arguments.train, arguments.val, arguments.test, images=arguments.images)
        judgment = judge(catalog, encoder, sources, options)
        sheet = arguments.sheet or path.with_name(f"{path.stem}_sheet.html")
        if judgment.num_kept:
            write_states(catalog, judgment)
        report = path.with_name(f"{path.stem}_filter.csv")
        write_report(catalog, judgment, report)
        write_sheet(catalog, judgment, sheet, arguments.pictures)
        print(summary(catalog, judgment))
    print(f"written: {report}, {sheet}")
    judgment.require_kept()


COMMANDS = (add_discover, add_crawl, add_filter, add_status)
