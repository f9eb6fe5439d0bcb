"""The command line: help, exit codes, and one sentence for what a user can get wrong."""

from pathlib import Path

import pytest
import torch

from influencerformer.training.cli import FitCLI, default_precision, main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), captured.out, captured.err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys)
    assert code == 0
    for command in ("fit", "validate", "predict", "compare", "check"):
        assert f"\n  {command} " in out


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (
            "fit",
            ["--model.loss ", "--model.schedule ", "--data.root ", "--trainer.max_steps ", "--resume", "--out_dir"],
        ),
        ("validate", ["--checkpoint", "--data.root "]),
        ("predict", ["--checkpoint", "--images", "--score-threshold", "--max-size"]),
        ("compare", ["--config", "--seeds"]),
    ],
)
def test_help_of_each_command(capsys: pytest.CaptureFixture[str], command: str, options: list[str]) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"influencerformer {command}" in out
    for option in options:
        assert option in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train"], "unknown command 'train': expected fit, validate, predict, compare or check"),
        (["fit"], "fit needs --config FILE"),
        (["fit", "--config"], "config"),
        (["fit", "--config", "absent.yaml"], "cannot read the configuration absent.yaml: No such file"),
        (["fit", "--config", "{here}/list.yaml"], "list.yaml must hold options as YAML keys, got list"),
        (["fit", "--config", "{here}/broken.yaml"], "broken.yaml is not valid YAML"),
        (["fit", "--config", "{here}/loop.yaml"], "starts from itself"),
        (["fit", "--config", "{here}/typo.yaml"], "'los'"),
        (["fit", "--config", "{tiny}", "--bogus", "1"], "--bogus"),
        (["fit", "--config", "{tiny}", "--model.loss", "focal"], "model.loss"),
        (["fit", "--config", "{tiny}", "--model.learning_rate", "fast"], "model.learning_rate"),
        (["fit", "--config", "{tiny}", "--seed_everything", "-1"], "seed_everything"),
        (["fit", "--config", "{tiny}", "--out_dir", "{here}/o", "--model.architecture", "resnet"], "'resnet'"),
        (
            ["fit", "--config", "{tiny}", "--out_dir", "{here}/o", "--model.loss_options", "{{nonsense: 1}}"],
            "loss_options do not fit the influencer loss",
        ),
        (
            ["fit", "--config", "{tiny}", "--out_dir", "{here}/o", "--trainer.val_check_interval", "1.0"],
            "val_check_interval",
        ),
        (
            ["fit", "--config", "{tiny}", "--out_dir", "{here}/o", "--data.format", "coco", "--data.root", "/absent"],
            "/absent/annotations/instances_train.json does not exist",
        ),
        (["validate", "--checkpoint", "absent.ckpt"], "checkpoint absent.ckpt does not exist"),
        (["validate", "--checkpoint", "{here}/list.yaml"], "list.yaml is no checkpoint"),
        (["validate", "--checkpoint", "{here}/other/model.ckpt"], "model.ckpt is no checkpoint of `fit`"),
        (["predict", "--checkpoint", "absent.ckpt", "--images", "{here}", "--out", "{here}/o"], "no images in"),
        (["predict", "--checkpoint", "{here}/list.yaml", "--images", "{here}/a.png", "--out", "o"], "no checkpoint"),
        (["predict", "--checkpoint", "c", "--images", "/absent", "--out", "o"], "--images /absent does not exist"),
        (
            ["predict", "--checkpoint", "c", "--images", "/", "--out", "o", "--score-threshold", "50"],
            "--score-threshold must be in 0..1, got 50.0",
        ),
    ],
)
def test_bad_input_ends_with_one_sentence_and_code_2(
    capsys: pytest.CaptureFixture[str], tiny_config: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("optimizer: adam\n")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other" / "model.ckpt")
    (tmp_path / "broken.yaml").write_text("model: [1\n")
    (tmp_path / "loop.yaml").write_text("base: loop.yaml\n")
    (tmp_path / "typo.yaml").write_text(f"base: {tiny_config}\nmodel:\n  los: hungarian\n")
    if any("a.png" in argument for argument in arguments):
        (tmp_path / "a.png").touch()
    code, _, err = run(capsys, *(a.format(here=tmp_path, tiny=tiny_config) for a in arguments))
    assert code == 2
    message = [line for line in err.splitlines() if line.startswith("influencerformer")]
    assert len(message) == 1, err
    assert said in message[0]
    assert "Traceback" not in err
    assert not (tmp_path / "o").exists()


def test_configurations_compose_and_name_the_run_folder(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hook in ("before_instantiate_classes", "instantiate_classes", "after_instantiate_classes"):
        monkeypatch.setattr(FitCLI, hook, lambda self: None)
    cli = FitCLI(["--config", str(tiny_config), "--seed_everything", "7"], "fit", "")
    assert cli.out_dir == Path("runs/tiny/influencer-seed7")
    assert cli.config.data.seed == 7
    assert cli.config.trainer.max_steps == 6
    (tmp_path / "more.yaml").write_text("model:\n  loss: hungarian\n")
    more = FitCLI(["--config", str(tiny_config), "--config", str(tmp_path / "more.yaml")], "fit", "")
    assert (more.config.model.loss, more.config.trainer.max_steps) == ("hungarian", 6)


def test_precision_without_a_gpu() -> None:
    assert default_precision("cpu") == "32-true"
