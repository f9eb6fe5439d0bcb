"""A small folder in the place of OneFormer3D: configurations of the same names and shape, and a package to import.

Written from the contract of its criterion, not from its source; what a test does not look at is left out.
"""

from pathlib import Path

PACKAGE = '''
"""What this repository's tests need of OneFormer3D."""

from mmdet3d.registry import MODELS
from mmengine.structures import InstanceData


class InstanceData_(InstanceData):
    """Fields of any length beside each other."""

    def __setattr__(self, name, value):
        if name in ("_metainfo_fields", "_data_fields"):
            super().__setattr__(name, value)
        else:
            super(InstanceData, self).__setattr__(name, value)
            self._data_fields.add(name)


@MODELS.register_module()
class S3DISUnifiedCriterion:
    """Builds the instance criterion, cuts the semantic queries off in place and adds losses of its own."""

    def __init__(self, num_semantic_classes, sem_criterion, inst_criterion):
        self.num_semantic_classes = num_semantic_classes
        self.weight = sem_criterion["loss_weight"]
        self.inst_criterion = MODELS.build(inst_criterion)

    def __call__(self, pred, insts):
        layers = [pred, *pred["aux_outputs"]]
        semantic = []
        for layer in layers:
            for i, masks in enumerate(layer["masks"]):
                cut = len(masks) - self.num_semantic_classes
                semantic.append(self.weight * masks[cut:].square().mean())
                for name in ("masks", "cls_preds", "scores"):
                    layer[name][i] = layer[name][i][:cut]
        losses = self.inst_criterion(pred, insts)
        losses["last_layer_seg_loss"] = sum(semantic) / len(semantic)
        return losses
'''

INSTANCE_CRITERION = """
        inst_criterion=dict(
            type="InstanceCriterion",
            matcher=dict(
                type="{matcher}",
                costs=[
                    dict(type="QueryClassificationCost", weight=0.5),
                    dict(type="MaskBCECost", weight=1.0),
                    dict(type="MaskDiceCost", weight=1.0),
                ],
            ),
            loss_weight=[0.5, 1.0, 1.0, 0.5],
            num_classes={classes},
            non_object_weight={non_object},
            fix_dice_loss_weight=True,
            iter_matcher=True,
            fix_mean_loss=True,
        ),
"""

S3DIS = (
    """
_base_ = ["mmdet3d::_base_/default_runtime.py"]
custom_imports = dict(imports=["oneformer3d"])
data_root = "data/s3dis/"
model = dict(
    type="S3DISOneFormer3D",
    data_preprocessor=dict(type="Det3DDataPreprocessor"),
    criterion=dict(
        type="S3DISUnifiedCriterion",
        num_semantic_classes=13,
        sem_criterion=dict(type="S3DISSemanticCriterion", loss_weight=5.0),"""
    + INSTANCE_CRITERION.format(matcher="HungarianMatcher", classes=13, non_object=0.05)
    + """    ),
)
rooms = dict(type="S3DISSegDataset_", data_root=data_root, data_prefix=dict(pts="points"))
train_dataloader = dict(
    batch_size=2,
    num_workers=3,
    dataset=dict(
        type="ConcatDataset",
        datasets=[dict(ann_file=f"s3dis_infos_Area_{area}.pkl", **rooms) for area in (1, 2, 3, 4, 6)],
    ),
)
val_dataloader = dict(batch_size=1, num_workers=1, dataset=dict(ann_file="s3dis_infos_Area_5.pkl", **rooms))
test_dataloader = val_dataloader
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.0001, weight_decay=0.05))
load_from = "work_dirs/tmp/instance-only-oneformer3d_1xb2_scannet-and-structured3d.pth"
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=512, val_interval=16)
"""
)

SCANNET = (
    """
_base_ = ["mmdet3d::_base_/default_runtime.py", "mmdet3d::_base_/datasets/scannet-seg.py"]
custom_imports = dict(imports=["oneformer3d"])
model = dict(
    type="ScanNetOneFormer3D",
    data_preprocessor=dict(type="Det3DDataPreprocessor_"),
    criterion=dict(
        type="ScanNetUnifiedCriterion",
        num_semantic_classes=20,
        sem_criterion=dict(type="ScanNetSemanticCriterion", ignore_index=20, loss_weight=0.2),"""
    + INSTANCE_CRITERION.format(matcher="SparseMatcher", classes=18, non_object=0.1)
    + """    ),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=6,
    dataset=dict(type="ScanNetSegDataset_", ann_file="scannet_oneformer3d_infos_train.pkl", scene_idxs=None),
)
val_dataloader = dict(dataset=dict(type="ScanNetSegDataset_", ann_file="scannet_oneformer3d_infos_val.pkl"))
test_dataloader = val_dataloader
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.0001, weight_decay=0.05))
load_from = "work_dirs/tmp/sstnet_scannet.pth"
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=512)
"""
)


def write_oneformer3d(folder: Path) -> Path:
    """Writes the stand-in; returns `folder`."""
    files = {
        "configs/oneformer3d_1xb2_s3dis-area-5.py": S3DIS,
        "configs/oneformer3d_1xb4_scannet.py": SCANNET,
        "oneformer3d/__init__.py": PACKAGE,
        "tools/train.py": "",
        "tools/test.py": "",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
