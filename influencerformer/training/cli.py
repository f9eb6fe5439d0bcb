"""The command `influencerformer`: fit, validate, predict, compare, check."""

from __future__ import annotations

import argparse
import errno
import functools
import importlib.metadata
import inspect
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentError
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException

from influencerformer.errors import UserError
from influencerformer.training.callbacks import (
    LAST_CHECKPOINT,
    BestCheckpoint,
    LastCheckpoint,
    RandomState,
    RunProgressBar,
)
from influencerformer.training.checkpoints import DurableCheckpointIO, read_checkpoint
from influencerformer.training.config_files import CONFIG_FILE, expand_configs, named_configs
from influencerformer.training.loggers import MetricsFile
from influencerformer.training.tasks import TaskName, named_task

HELP = """usage: influencerformer COMMAND [options]

Query-based instance segmentation without a matcher, side by side with Hungarian matching.

commands:
  fit        train a model: --config FILE, then any option as --trainer.max_steps 100; --resume to continue
  validate   AP (of tracks: efficiency) of a checkpoint: --checkpoint FILE
  predict    segment images: --checkpoint FILE --images FOLDER_OR_FILES --out FOLDER
             or point clouds: --checkpoint FILE --points FILES_OR_FOLDER --out FOLDER
             or the hits of events: --checkpoint FILE --events FOLDER --out FOLDER
  compare    train the same model with each loss and report how they differ: --config FILE --out FOLDER
  check      read a whole data set and list every defect in it: FORMAT:FOLDER, or --config FILE

`influencerformer COMMAND --help` explains a command's options; with --task points those for point clouds, with
--task tracks those for particle tracks.
"""


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SaveRunConfig(SaveConfigCallback):
    """Keeps the options of a run as `config.yaml` in its folder, ready for `--config`."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        config = self.config.clone()
        for name in ("config", "base", "resume", "checkpoint", "save_every_minutes"):
            config.pop(name, None)
        path = Path(trainer.default_root_dir) / CONFIG_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.parser.dump(config, skip_none=False, skip_validation=True), encoding="utf-8")


class SegmenterCLI(LightningCLI):
    """Parses options and builds model, data and trainer; runs nothing by itself.

    Args:
        arguments: as on the command line, `--config` files with their bases expanded.
        prog: the command's name in its help.
        description: of the command, for its help.
        callbacks: further callbacks of the trainer.
    """

    def __init__(
        self, arguments: Sequence[str], prog: str, description: str, callbacks: Sequence[Callback] = ()
    ) -> None:
        self.arguments = list(arguments)
        self.extra_callbacks = list(callbacks)
        self._pretrained = False
        task = named_task(arguments)
        super().__init__(
            task.module,
            task.data,
            save_config_callback=SaveRunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            parser_kwargs={
                "prog": prog,
                "usage": f"{prog} [--config FILE ...] [--SECTION.OPTION VALUE ...]",
                "description": description,
                "exit_on_error": False,
            },
            args=expand_configs(arguments),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        try:
            self.config = parser.parse_args(args)  # type: ignore[arg-type]
        except ArgumentError as error:
            raise UserError(" ".join(str(error).split())) from None

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything", type=NonNegativeInt, default=0, help="seed of weights, data order and crops"
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--task",
            type=TaskName,
            default="image",
            help="image, points or tracks: what is segmented, and whose options --model and --data take",
        )
        parser.add_argument("--base", type=str | None, help="in a file: the configuration it starts from")
        parser.add_argument(
            "--out_dir",
            type=str | None,
            help="folder of the run: last.ckpt, best.ckpt, metrics.csv, tensorboard, config.yaml "
            "(default: runs/FOLDER/CONFIG-seedN, after the configuration file)",
        )
        parser.link_arguments("out_dir", "trainer.default_root_dir")
        parser.link_arguments("seed_everything", "data.seed")
        options = inspect.signature(named_task(self.arguments).module).parameters
        for name in ("num_classes", "class_names"):
            if name in options:
                parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")

    def build_without_pretrained_weights(self) -> None:
        """For a model whose weights come from a checkpoint; what is saved of its options stays true."""
        if "pretrained" in self.config.model:
            self._pretrained = self.config.model.pretrained
            self.config.model.pretrained = False

    def instantiate_classes(self) -> None:
        """Builds everything; an option that something cannot be built with is the user's to change."""
        try:
            super().instantiate_classes()
        except (UserError, MisconfigurationException):
            raise
        except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise UserError(f"the options cannot be used ({type(error).__name__}: {reason})") from error

    def after_instantiate_classes(self) -> None:
        if self._pretrained:
            self.config.model.pretrained = self.model.hparams["pretrained"] = True

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config.trainer
        if config.precision is None:
            kwargs["precision"] = default_precision(config.accelerator)
        return super().instantiate_trainer(**kwargs)


class FitCLI(SegmenterCLI):
    """Options of `fit`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--resume",
            action="store_true",
            help="continue from last.ckpt in out_dir; start anew where there is none",
        )
        parser.add_argument(
            "--save_every_minutes",
            type=NonNegativeFloat,
            default=10.0,
            help="the most training time that a kill can cost; last.ckpt is saved that often, and at every validation",
        )

    def before_instantiate_classes(self) -> None:
        if not named_configs(self.arguments):
            raise UserError("fit needs --config FILE, for example configs/scenes/influencer.yaml")
        if self.last_checkpoint.is_file():
            if not self.config.resume:
                raise UserError(
                    f"{self.out_dir} already holds a run ({LAST_CHECKPOINT}): add --resume to continue it, "
                    "or choose another --out_dir"
                )
            self.build_without_pretrained_weights()

    @property
    def out_dir(self) -> Path:
        """The run's folder."""
        if self.config.out_dir is not None:
            return Path(self.config.out_dir)
        config = named_configs(self.arguments)[-1].resolve()
        return Path("runs") / config.parent.name / f"{config.stem}-seed{self.config.seed_everything}"

    @property
    def last_checkpoint(self) -> Path:
        return self.out_dir / LAST_CHECKPOINT

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config, out_dir = self.config.trainer, self.out_dir
        kwargs["default_root_dir"] = str(out_dir)
        if config.logger is None or config.logger is True:
            kwargs["logger"] = [
                MetricsFile(out_dir),
                TensorBoardLogger(out_dir, name="tensorboard", version="", default_hp_metric=False),
            ]
        callbacks: list[Callback] = [*(self.config_init.trainer.callbacks or []), *self.extra_callbacks]
        callbacks.append(RandomState())
        plugins = self.config_init.trainer.plugins or []
        kwargs["plugins"] = [*default_plugins(), *(plugins if isinstance(plugins, list) else [plugins])]
        if config.enable_checkpointing is not False:
            best = BestCheckpoint(out_dir, monitor=f"val/{self.model.values[0]}")
            callbacks += [best, LastCheckpoint(out_dir, self.config.save_every_minutes)]
        if config.enable_progress_bar is not False:
            callbacks.append(RunProgressBar())
        return super().instantiate_trainer(**kwargs, callbacks=callbacks)


class ValidateCLI(SegmenterCLI):
    """Options of `validate`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--checkpoint", type=str, required=True, help="checkpoint of `fit`")

    def before_instantiate_classes(self) -> None:
        read_checkpoint(Path(self.config.checkpoint))
        self.build_without_pretrained_weights()
        self.save_config_callback = None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        return super().instantiate_trainer(**kwargs, logger=False)


def default_plugins() -> list[Any]:
    """Checkpoints that are whole or the old ones, and SLURM without checkpoints of Lightning's own.

    Lightning's handler for requeued jobs would leave hpc_ckpt_N.ckpt in the run's folder, and prefer it to any newer
    last.ckpt from then on.
    """
    on_slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [DurableCheckpointIO(), *([SLURMEnvironment(auto_requeue=False)] if on_slurm else [])]


def default_precision(accelerator: Any) -> Literal["bf16-mixed", "32-true"]:
    """bf16-mixed on a GPU that computes in bfloat16, 32 bits elsewhere."""
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def fit(arguments: Sequence[str], callbacks: Sequence[Callback] = ()) -> FitCLI:
    """Trains, as `influencerformer fit ARGUMENTS`.

    Args:
        arguments: for example ["--config", "configs/scenes/influencer.yaml", "--trainer.max_steps", "100"].
        callbacks: further callbacks of the trainer.

    Returns:
        What ran: `.trainer` (with `callback_metrics`), `.model`, `.datamodule`, `.out_dir`.

    Raises:
        UserError: options, data or checkpoint cannot be used, the loss is no longer finite, or the disk is full.
        SystemExit: with code 0, after SIGTERM; the run's state is saved.
    """
    cli = FitCLI(
        arguments,
        "influencerformer fit",
        "Train a mask transformer for instance segmentation of images, or with --task points of "
        "point clouds, or one that finds tracks with --task tracks.",
        callbacks,
    )
    resume = cli.config.resume and cli.last_checkpoint.is_file()
    if resume:
        read_checkpoint(cli.last_checkpoint)
    try:
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=str(cli.last_checkpoint) if resume else None)
    except SIGTERMException:
        if cli.trainer.is_global_zero:
            print(f"ended by SIGTERM; continue with --resume: {cli.out_dir}", file=sys.stderr)
        raise
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(
            f"no more can be written in {cli.out_dir} ({error.strerror}): make room on that disk, then continue with "
            f"--resume from the last state that was saved"
        ) from error
    except SystemExit:  # how Lightning ends a run that was interrupted
        print(f"interrupted; continue with --resume: {cli.out_dir}", file=sys.stderr)
        raise KeyboardInterrupt from None
    return cli


def validate(arguments: Sequence[str]) -> dict[str, float]:
    """AP of a checkpoint, as `influencerformer validate ARGUMENTS`.

    The options of the run, in config.yaml beside the checkpoint, are taken unless `--config` is given.

    Returns:
        val/AP, val/AP50, for images val/AP75, for points val/AP25, for tracks instead val/efficiency and so on
        (percent), and val/loss.
    """
    arguments = list(arguments)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--checkpoint", type=Path, nargs="?")  # without a value ValidateCLI says so
    checkpoint = parser.parse_known_args(arguments)[0].checkpoint
    if checkpoint is not None:
        # first, so that a stranger's file is named as what it is, not judged by what lies beside it
        read_checkpoint(checkpoint)
    if checkpoint is not None and not named_configs(arguments):
        beside = checkpoint.parent / CONFIG_FILE
        if beside.is_file():
            arguments = ["--config", str(beside), *arguments]
    cli = ValidateCLI(arguments, "influencerformer validate", "AP of a checkpoint on the validation data.")
    return dict(cli.trainer.validate(cli.model, cli.datamodule, ckpt_path=str(cli.config.checkpoint))[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; ends with code 0, 1 (something failed), 2 (bad input) or 130 (interrupted)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command, options = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    _leave_out_noise()
    try:
        sys.exit(run(command, options))
    except (UserError, MisconfigurationException) as error:
        print(" ".join(f"influencerformer {command}: {error}".split()), file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a path that cannot be: too long, not writable, no folder
        print(
            " ".join(f"influencerformer {command}: {error.strerror or error}: {error.filename}".split()),
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _leave_out_noise() -> None:
    """Messages of libraries that a user of the command can do nothing about."""
    for message in (
        r".*isinstance\(treespec, LeafSpec\)",
        "Be aware that when using `ckpt_path`, callbacks",
        "Checkpoint directory .* exists and is not empty",
        "You have overridden `transfer_batch_to_device` in `LightningModule`",  # tracks: events stay on the CPU
        "`training_step` returned `None`",  # a batch that is left out is named by its samples
        r"It is recommended to use `self.log\(.*sync_dist=True",  # every process has the same value already
        "You're resuming from a checkpoint that ended before the epoch ended",  # our loader goes on within it
    ):
        warnings.filterwarnings("ignore", message=message)
    for logger, message in (
        ("lightning.pytorch.utilities.rank_zero", "pypi.org/project/lit"),
        ("transformers.models.mask2former.configuration_mask2former", "is not a supported model"),
    ):
        logging.getLogger(logger).addFilter(functools.partial(_lacks, message))


def _lacks(message: str, record: logging.LogRecord) -> bool:
    return message not in record.getMessage()


def run(command: str, options: list[str]) -> int:
    """Runs one command; returns its exit code."""
    empty = next((option for option in options if option.startswith("--") and option.endswith("=--")), None)
    if empty is not None:  # argparse would make an empty list of it
        raise UserError(f"{empty} gives no value: expected one after the equals sign")
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
    elif command == "--version":
        print(importlib.metadata.version("influencerformer"))
    elif command == "fit":
        fit(options)
    elif command == "validate":
        validate(options)
    elif command == "predict":
        from influencerformer.training.predict import main as predict

        return predict(options)
    elif command == "compare":
        from influencerformer.training.compare import main as compare

        return compare(options)
    elif command == "check":
        from influencerformer.training.check import main as check

        return check(options)
    else:
        raise UserError(f"unknown command {command!r}: expected fit, validate, predict, compare or check")
    return 0


if __name__ == "__main__":
    main()
