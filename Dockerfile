# fastlt in a container, for GPUs and for CPUs. docs/cluster.md says how it is built and started.
#
# PyTorch's wheels bring CUDA; of the machine only the driver is used. Triton and the JPEG decoder compile on first use.
FROM debian:bookworm-slim

# Optional parts, as in pip install 'fastlt[dali,ray]', and another index of wheels, such as PyTorch's for CPUs alone.
ARG EXTRAS=""
ARG PIP_EXTRA_INDEX_URL=""

ENV DEBIAN_FRONTEND=noninteractive \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PATH=/opt/fastlt/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# ssh and pdsh are for `deepspeed --hostfile`.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates gcc libc6-dev libjpeg-dev openssh-client pdsh python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

COPY . /opt/fastlt
RUN /opt/fastlt/tools/install.sh \
    && if [ -n "$EXTRAS" ]; then cd /opt/fastlt && pip install --constraint constraints.txt --editable ".[$EXTRAS]"; fi

WORKDIR /work
CMD ["fastlt", "doctor"]
