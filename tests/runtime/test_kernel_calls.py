"""What the runtime says about the kernels."""

from wordkiln.runtime import instruction_sets


def test_the_current_instruction_set_is_one_of_those_available():
    current, available = instruction_sets()
    assert current in available
