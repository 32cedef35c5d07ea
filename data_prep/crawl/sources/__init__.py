"""Where images of a category may be found: public APIs, one module each."""

from fastlt.data_prep.crawl.sources.commons import Commons
from fastlt.data_prep.crawl.sources.gbif import Gbif
from fastlt.data_prep.crawl.sources.inaturalist import INaturalist
from fastlt.data_prep.crawl.sources.openverse import Openverse
from fastlt.data_prep.crawl.sources.source import Found, GetJson, ImageSource, Page, SourceError

SOURCES: dict[str, type[INaturalist] | type[Gbif] | type[Commons] | type[Openverse]] = {
    source.name: source for source in (INaturalist, Gbif, Commons, Openverse)
}

__all__ = ["SOURCES", "Found", "GetJson", "ImageSource", "Page", "SourceError"]
