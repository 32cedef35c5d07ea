"""Where images of a category may be found: public APIs, one module each, and lists of URLs (`url_lists`)."""

from fastlt.data_prep.sources.commons import Commons
from fastlt.data_prep.sources.gbif import Gbif
from fastlt.data_prep.sources.inaturalist import INaturalist
from fastlt.data_prep.sources.openverse import Openverse
from fastlt.data_prep.sources.source import Found, GetJson, Page, Source, SourceError

SOURCES: dict[str, type[INaturalist] | type[Gbif] | type[Commons] | type[Openverse]] = {
    source.name: source for source in (INaturalist, Gbif, Commons, Openverse)
}

__all__ = ["SOURCES", "Found", "GetJson", "Page", "Source", "SourceError"]
