from leanly.suggest import suggestion


def test_near_names_come_first():
    assert suggestion("acuracy", ["accuracy", "mse"]).startswith("did you mean 'accuracy'?")


def test_without_a_near_name_all_are_listed():
    assert suggestion("zzz", ["mse", "accuracy"]) == "use one of: accuracy, mse"


def test_anything_can_be_mistyped():
    assert "cpu" in suggestion(7, ["cpu"])


def test_of_many_names_some_are_listed():
    found = suggestion("zzz", [f"node_{number:03}" for number in range(100)])
    assert found.endswith("node_039 and 60 more")
