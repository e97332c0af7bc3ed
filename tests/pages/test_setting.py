"""dtta.pages.setting: one value for each scale."""

import pytest

from dtta.pages import Setting


def test_setting_chooses_by_scale():
    assert Setting("mini")(mini=1, full=2) == 1 and Setting("mini").mini
    assert Setting("full")(mini=1, full=2) == 2 and not Setting("full").mini


@pytest.mark.parametrize("scale", ["Mini", "", None, "large"])
def test_another_scale_is_refused(scale):
    with pytest.raises(ValueError, match='must be "mini" or "full"'):
        Setting(scale)
