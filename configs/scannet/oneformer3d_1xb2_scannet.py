# OneFormer3D on ScanNet: the baseline of the pair.
#
# Everything comes from OneFormer3D's own configuration, which ONEFORMER3D_ROOT leads to (an absolute path; a folder
# `oneformer3d` beside this repository if it is not set). Changed is the batch size alone, 2 scenes in place of 4.
# The other of the pair: influencerformer_1xb2_scannet.py. Explained in docs/integration_guide.md.
_base_ = ["{{$ONEFORMER3D_ROOT:../../../oneformer3d}}/configs/oneformer3d_1xb4_scannet.py"]

train_dataloader = dict(batch_size=2)
