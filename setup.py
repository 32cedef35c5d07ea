"""Packaging: kernels/ and data_prep/ are installed as fastlt.kernels and fastlt.data_prep."""

from setuptools import setup

setup(
    name="fastlt",
    version="0.1.0",
    description="Long-tailed image classification by category extrapolation, on DeepSpeed and Triton",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=["fastlt", "fastlt.loaders", "fastlt.kernels", "fastlt.data_prep", "fastlt.data_prep.sources"],
    package_dir={"fastlt": "fastlt", "fastlt.kernels": "kernels", "fastlt.data_prep": "data_prep"},
    package_data={"fastlt.data_prep": ["discover_prompt.md"], "fastlt.loaders": ["jpeg.c"]},
    install_requires=[
        "torch>=2.11",
        "torchvision",
        "timm>=1.0.20",
        "deepspeed>=0.19",
        "numpy",
        "numba",  # the loss on the CPU
        "pillow<13",  # 13 refuses to posterize to 0 bits, which timm's RandAugment (1.0.31) asks for
        "pydantic>=2.7",
        "pyyaml",
        "safetensors",
        "simplejpeg",
        "matplotlib",
        "tensorboard",
        "tqdm",
    ],
    extras_require={
        "ffcv": ["ffcv==1.0.2", "opencv-python"],  # for tests alone: it reads what we write
        "dali": ["nvidia-dali-cuda130>=2.4"],
        "data": ["openai", "aiohttp>=3.12", "protego", "pyarrow", "opencv-python"],
        "bench": ["liger-kernel", "cut-cross-entropy"],  # peers of the kernels, for GPUs
        "dev": [
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "webdataset",
            "rich",
            "ruff",
            "mypy",
            "types-PyYAML",
            "types-tqdm",
            "ninja",
        ],
    },
    entry_points={"console_scripts": ["fastlt = fastlt.cli:main"]},
)
