"""A small event as TrackML's files."""

from __future__ import annotations

from pathlib import Path

NAME = "event000000001"
FILES = {
    "hits": "hit_id,x,y,z,volume_id,layer_id,module_id\n"
    "3,32.0,0.0,1.5,8,2,1\n"
    "5,0.0,72.0,-2.0,8,4,7\n"
    "6,116.0,1.0,3.0,8,6,2\n"
    "9,0.0,-40.0,600.0,9,2,5\n"
    "12,1.0,33.0,4.0,8,2,9\n",
    "truth": "hit_id,particle_id,tx,ty,tz,tpx,tpy,tpz,weight\n"
    "3,9007199254740993,32,0,1.5,1,0,0,0.25\n"
    "5,4,0,72,-2,0,1,0,0.125\n"
    "6,9007199254740993,116,1,3,1,0,0,0.5\n"
    "9,0,0,-40,600,0,0,0,0.0\n"
    "12,4,1,33,4,0,1,0,0.0625\n",
    "particles": "particle_id,particle_type,vx,vy,vz,px,py,pz,q,nhits\n"
    "4,211,0.1,0.2,5.5,0.0,0.6,-0.8,-1,2\n"
    "7,211,0,0,0,1,1,1,1,0\n"
    "9007199254740993,-211,0,0,1,3.0,4.0,0.0,1,2\n",
    "cells": "hit_id,ch0,ch1,value\n3,10,20,0.5\n3,11,20,0.25\n6,1,1,2.0\n12,5,5,0.125\n",
}
"""Two particles of two hits each, one without hits, one noise hit; one id that float64 cannot hold."""


def write_files(folder: Path, name: str = NAME, **replaced: str | None) -> Path:
    """Writes the event of FILES with some files replaced, or left out where None; gives the folder."""
    folder.mkdir(exist_ok=True)
    for kind, text in {**FILES, **replaced}.items():
        if text is not None:
            (folder / f"{name}-{kind}.csv").write_bytes(text.encode())
    return folder
