from sartor.core.machine import machine


def test_machine_names_processor_cores_and_framework():
    assert ", torch " in machine()
    assert " core" in machine()
    assert "\n" not in machine()
