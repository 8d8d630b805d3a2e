"""Scripts whose output is kept in the repository."""

import importlib.util
from pathlib import Path

SCRIPTS = Path(__file__).parent.parent / "scripts"


def test_the_page_on_scale_is_what_its_script_writes_from_the_measurements():
    spec = importlib.util.spec_from_file_location("scale", SCRIPTS / "scale.py")
    scale = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scale)
    assert scale.PAGE.read_text() == scale.page(), "python scripts/scale.py writes it anew"
