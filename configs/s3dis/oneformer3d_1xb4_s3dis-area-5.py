# OneFormer3D on S3DIS, trained on areas 1, 2, 3, 4, 6 and tested on area 5: the baseline of the pair.
#
# Everything comes from OneFormer3D's own configuration, which ONEFORMER3D_ROOT leads to (an absolute path; a folder
# `oneformer3d` beside this repository if it is not set). Changed is the batch size alone, 4 rooms in place of 2.
# The other of the pair: influencerformer_1xb4_s3dis-area-5.py. Explained in docs/integration_guide.md.
_base_ = ["{{$ONEFORMER3D_ROOT:../../../oneformer3d}}/configs/oneformer3d_1xb2_s3dis-area-5.py"]

train_dataloader = dict(batch_size=4)
