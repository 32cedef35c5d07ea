"""Images out of dumps of metadata, joined to the categories out of core: `fastlt crawl --dump`."""
