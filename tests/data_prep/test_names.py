"""Names of classes: plain ones, of which there are many, take a shorter way to the same."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fastlt.data_prep.names import normalized


@settings(deadline=None)
@given(st.text("abzAZ019 _"))
def test_the_shorter_way_leads_to_the_same_name(text):
    longer = normalized(f"\u00e9 {text}")  # an accent, so that it is not plain
    assert longer == "_".join(filter(None, ("e", normalized(text))))
