"""A reader who follows one call is sent to few files, and to few of them again."""

import walk

LOAD = (15, 5)
"""Stays and returns of the way from a configuration to a built backbone, in core; they may only
fall."""
ITEM = (50, 20)
"""The same of one utterance of an A/B, from its text to its scores."""


def test_the_way_from_a_configuration_to_a_backbone_is_short():
    way = walk.load(("core",))
    assert way.files[0] == "core/config/compose.py" and "core/system/build.py" in way.files
    assert way.stays <= LOAD[0] and way.returns <= LOAD[1], way.files


def test_the_way_of_one_utterance_is_short():
    way = walk.item(("core",))
    assert way.files[0] == "core/evaluate/experiment/generate.py"
    assert {"core/speak/pipeline.py", "core/evaluate/measure/score.py"} <= set(way.files)
    assert way.stays <= ITEM[0] and way.returns <= ITEM[1], way.files


def test_a_return_is_a_stay_in_a_file_that_was_left():
    way = walk.Walk()
    way.files = ["core/a.py", "core/b.py", "core/a.py", "core/c.py", "core/a.py"]
    assert (way.stays, way.returns) == (5, 2)
