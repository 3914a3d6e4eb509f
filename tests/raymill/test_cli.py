import pytest

from raymill import registry


def test_help_of_every_command_shows_a_working_example(raymill_here):
    for group in {name.partition(".")[0] for name in registry.MODULES}:
        answer = raymill_here(group, "--help")
        assert answer.returncode == 0
        for verb in (name.partition(".")[2] for name in registry.MODULES if name.startswith(f"{group}.")):
            assert verb in answer.stdout
    assert "Example: raymill data build build.yaml" in raymill_here("data", "build", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "biuld", "x.yaml"], "data: No such command 'biuld'. Did you mean 'build'?"),
        (["data", "build", "x.yaml", "--sett", "a=b"], "data build: No such option: --sett"),
        (["data", "build", "none.yaml"], "none.yaml: no such configuration file"),
        (["run", "none.yaml"], "none.yaml: no such configuration file"),
        (["data", "build"], "data build: Missing argument"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(raymill_here, arguments, message):
    answer = raymill_here(*arguments)
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr


def test_debug_shows_the_traceback(raymill):
    answer = raymill("--debug", "data", "build", "none.yaml")
    assert answer.returncode == 1
    assert "Traceback" in answer.stderr


def test_an_address_without_a_cluster_is_a_users_mistake(raymill, tmp_path):
    (tmp_path / "c.yaml").write_text("output: out\nsources: [{name: a, paths: [c.yaml], format: jsonl}]\n")
    answer = raymill("data", "build", "c.yaml", "--address", "127.0.0.1:1")
    assert answer.returncode == 2
    assert "no Ray cluster answers there" in answer.stderr
