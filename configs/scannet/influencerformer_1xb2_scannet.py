# OneFormer3D on ScanNet with the Influencer Loss: as oneformer3d_1xb2_scannet.py, but with another criterion.
#
# InstanceCriterion and its SparseMatcher are swapped for InfluencerCriterion, which `import influencerformer`
# registers. Classes, weights and everything outside the criterion stay the original's.
# Every parameter and its effect: docs/integration_guide.md.
_base_ = ["./oneformer3d_1xb2_scannet.py"]

custom_imports = dict(imports=["oneformer3d", "influencerformer"])

model = dict(
    criterion=dict(
        inst_criterion=dict(
            _delete_=True,
            type="InfluencerCriterion",
            num_classes=18,
            loss_weight=[0.5, 1.0, 1.0, 0.5],
            non_object_weight=0.1,
            fix_dice_loss_weight=True,
        )
    )
)
