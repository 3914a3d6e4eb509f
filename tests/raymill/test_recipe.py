import json

import pytest

from core.config import StageConfig
from core.errors import UserError
from core.stage import Stage
from raymill.recipe import Plan, Step

RECIPE = """
name: small
output: {output}
services:
  site:
    command: [python, "${{here}}/site.py", "${{site.port}}"]
    ready: "http://127.0.0.1:${{site.port}}/"
    stages: [crawl]
stages:
  crawl:
    use: data.crawl
    seeds: ["http://site.test/"]
    connect_to: {{site.test: "127.0.0.1:${{site.port}}"}}
  build:
    use: data.build
    sources: [{{name: site, paths: ["${{crawl}}/warc/*.warc.gz"]}}]
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(output=tmp_path / "runs"))
    return path


def test_references_become_run_directories_ports_and_the_recipes_folder(recipe, tmp_path):
    plan = Plan(recipe)
    crawl, build = plan.steps
    assert crawl.config.output == f"{tmp_path}/runs/crawl"
    assert build.config.sources[0].paths == [f"{tmp_path}/runs/crawl/warc/*.warc.gz"]
    service = plan.recipe.services["site"]
    assert service.command[1] == f"{tmp_path}/site.py"
    assert crawl.config.connect_to["site.test"] == f"127.0.0.1:{service.command[2]}"


def test_a_free_port_does_not_make_an_artifact_out_of_date(recipe):
    assert Plan(recipe).steps[0].config.identity() == Plan(recipe).steps[0].config.identity()


def test_settings_of_every_stage_are_checked_before_anything_runs(recipe):
    with pytest.raises(UserError, match=r"stages\.build: dedup\.treshold is not a setting; did you mean dedup\.thr"):
        Plan(recipe, ["build.dedup.treshold=1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("build.use=data.biuld", "'data.biuld' is no stage"),
        ("build.sources.0.name=${nothing}", r"refers to nothing; this recipe knows: here, crawl, build, site\.port"),
        ("services.site.stages=[krawl]", "krawl is no stage of this recipe"),
        ("outptu=x", "outptu is not a setting; did you mean output?"),
    ],
)
def test_mistakes_in_a_recipe_are_one_line(recipe, override, message):
    with pytest.raises(UserError, match=message) as caught:
        Plan(recipe, [override])
    assert "\n" not in str(caught.value)


def test_configuration_of_one_stage_is_no_recipe(tmp_path):
    path = tmp_path / "build.yaml"
    path.write_text("output: runs/documents\nsources: [{name: mine, paths: ['*.jsonl']}]\n")
    with pytest.raises(UserError, match=r"build\.yaml: holds no stages, so it is no recipe; .*its own command"):
        Plan(path)


def test_unknown_stage_names_are_refused(recipe):
    plan = Plan(recipe)
    for arguments in (("krawl", None), (None, "krawl")):
        with pytest.raises(UserError, match="has no such stage; it has: crawl, build"):
            plan.select(*arguments)
    assert [step.name for step in plan.select(None, "build")] == ["build"]
    assert [step.name for step in plan.select("crawl", None)] == ["crawl"]


def test_dry_run_writes_nothing(recipe, raymill_here, tmp_path):
    answer = raymill_here("run", recipe, "--dry-run")
    assert answer.returncode == 0, answer.stderr
    assert "data.build" in answer.stdout
    assert not (tmp_path / "runs").exists()


def test_service_that_does_not_start_is_named(recipe, raymill_here, tmp_path):
    (tmp_path / "site.py").write_text("raise SystemExit('the site is closed')")
    answer = raymill_here("run", recipe)
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1] == (
        "raymill: services.site: the command ended with exit code 1: the site is closed"
    )


def test_damaged_manifest_is_no_artifact(recipe, tmp_path):
    folder = tmp_path / "runs" / "crawl"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"stage": "data.crawl"}))
    assert Plan(recipe).preview()[0][3] == "run"


def test_a_reused_artifact_is_checked_again_and_force_is_what_was_asked_for(recipe, tmp_path, monkeypatch):
    """A gate that failed fails the next run as well, though its artifact is up to date."""
    made, wrong = [], []

    def work(config, run):
        made.append(run.resumed)
        return run.commit()

    def check(found):
        if wrong:
            raise UserError("the gate holds")

    step = Step("count", Stage("test.count", 1, StageConfig, work, check), StageConfig(output=str(tmp_path / "run")))
    plan = Plan(recipe)
    assert plan._execute(step, force=False)[1] is False
    wrong.append(True)
    with pytest.raises(UserError, match="the gate holds"):
        plan._execute(step, force=False)
    wrong.clear()
    assert plan._execute(step, force=False)[1] is True
    assert plan._execute(step, force=True)[1] is False
    assert len(made) == 2
