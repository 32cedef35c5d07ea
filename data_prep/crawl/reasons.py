"""Why a candidate is dropped, where several rooms must know; what an option decides names it."""

from fastlt.data_prep.catalog import schema

NOT_PUBLIC = "not a public address (--allow-private)"
ROBOTS = "robots.txt forbids it (--ignore-robots)"
TOO_MANY_RULES = "robots.txt has too many rules for so long a URL (--ignore-robots)"
OPTED_OUT = "opted out (--ignore-opt-outs)"
TOO_MANY_BYTES = "too many bytes (--max-megabytes)"
TOO_MANY_PIXELS = "too many pixels (--max-megapixels)"
TOO_LARGE_TO_DECODE = "too large to decode (--max-megapixels)"
TOO_SLOW_TO_DECODE = "too slow to decode"
NO_TIME = "not decoded within a minute"
CRASHES = "crashes the decoder"
TOO_SMALL = "too small (--min-side)"
NEAR_DUPLICATE = "near-duplicate (--duplicates)"
DUPLICATE = "duplicate"
ANOTHER_PART = "redirects to a host of another part"
EXCLUDED = schema.EXCLUDED
REMOVED = schema.REMOVED
LICENSE = "license is not allowed (--licenses)"

COSTLY = frozenset({TOO_LARGE_TO_DECODE, TOO_SLOW_TO_DECODE, CRASHES})
"""Images that a decoder had to be stopped at, for which a host has to answer."""
