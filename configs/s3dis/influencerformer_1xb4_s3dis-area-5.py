# OneFormer3D on S3DIS with the Influencer Loss: as oneformer3d_1xb4_s3dis-area-5.py, but with another criterion.
#
# InstanceCriterion and its HungarianMatcher are swapped for InfluencerCriterion, which `import influencerformer`
# registers. Classes, weights and everything outside the criterion stay the original's. bg_weight acts on little: all 13
# classes are instances here, and what belongs to none are voxels on the border between two; below 1 it costs a mask
# little to cover them.
# Every parameter and its effect: docs/integration_guide.md.
_base_ = ["./oneformer3d_1xb4_s3dis-area-5.py"]

custom_imports = dict(imports=["oneformer3d", "influencerformer"])

model = dict(
    criterion=dict(
        inst_criterion=dict(
            _delete_=True,
            type="InfluencerCriterion",
            num_classes=13,
            loss_weight=[0.5, 1.0, 1.0, 0.5],
            non_object_weight=0.05,
            fix_dice_loss_weight=True,
            bg_weight=0.1,
        )
    )
)
