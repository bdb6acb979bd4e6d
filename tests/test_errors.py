"""What the errors of arguments say."""

from gradlab import errors


def test_an_unknown_name_has_near_matches_or_a_list_that_can_be_read():
    few, many = ["sampled", "model"], [f"name{i:04d}" for i in range(1000)]
    assert (
        str(errors.unknown_name("target", "modle", few))
        == "target: unknown name 'modle'; did you mean model or sampled?"
    )
    assert str(errors.unknown_name("target", "xyz", few)) == "target: unknown name 'xyz'; known: model, sampled"
    said = str(errors.unknown_name("layer", "xyz", many))
    assert said.endswith("name0039, and 960 more")
    assert str(errors.unknown_name("layer", "xyz", [])) == "layer: unknown name 'xyz'; known: none"
