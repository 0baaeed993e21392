# docker build --tag bids_lesion_xai:0.1.0 .
# docker build --tag bids_lesion_xai:0.1.0-cuda --build-arg VARIANT=cuda \
#     --build-arg TAG=bids_lesion_xai:0.1.0-cuda .
FROM docker.io/library/debian:bookworm-slim AS build

RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv

# The dependencies first: these layers stay as they are when only the code changes. torch comes
# from where its build of the variant is; an index for it alone slows nothing else.
WORKDIR /src
COPY setup.cfg constraints.txt ./
ARG VARIANT=cpu
RUN case "$VARIANT" in \
        cpu) index=https://download.pytorch.org/whl/cpu ;; \
        cuda) index=https://pypi.org/simple ;; \
        *) echo "VARIANT is $VARIANT; cpu or cuda is expected" >&2; exit 1 ;; \
    esac \
    && /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps \
        --index-url "$index" --constraint constraints.txt torch
RUN python3 -c "\
import configparser; \
setup = configparser.ConfigParser(); \
setup.read('setup.cfg'); \
print(setup['options']['install_requires'])" > requirements.txt \
    && /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
        --constraint constraints.txt --requirement requirements.txt

# A clone may be closed to other users. To touch all files would copy all of them into this layer.
COPY . .
RUN /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps . \
    && find /opt/venv ! -type l ! -perm -a+r -exec chmod a+rX {} +

# Fails here, not at the user's, if the wheel lacks weights or templates, or torch is another.
RUN cd / && VARIANT="$VARIANT" /opt/venv/bin/python -c "\
import os; \
from pathlib import Path; \
import torch; \
import bids_lesion_xai; \
from bids_lesion_xai.models.bundle import DEFAULT_BUNDLE, read_bundle; \
read_bundle(DEFAULT_BUNDLE).verify(); \
assert (Path(bids_lesion_xai.__file__).parent / 'reports/templates/page.css').is_file(); \
assert (torch.version.cuda is None) == (os.environ['VARIANT'] == 'cpu'), torch.__version__"


FROM docker.io/library/debian:bookworm-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/venv /opt/venv

# Nothing is written to the home folder or into the image: any user, read-only, without network.
# The two variables of NVIDIA let its container runtime show the GPUs.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    LC_ALL=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    MPLBACKEND=Agg \
    DENO_NO_UPDATE_CHECK=1 \
    NO_ET=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# What the outputs say about the image. URI is where it can be had, e.g. docker://REGISTRY/NAME:TAG.
ARG VERSION=0.1.0
ARG TAG=bids_lesion_xai:$VERSION
ARG URI=
ARG REVISION=unknown
ENV LESION_XAI_CONTAINER=docker \
    LESION_XAI_CONTAINER_TAG=$TAG \
    LESION_XAI_CONTAINER_URI=$URI
LABEL org.opencontainers.image.title="bids_lesion_xai" \
      org.opencontainers.image.description="BIDS App: multiple sclerosis lesion segmentation with an explanation of every single lesion. Research use only." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"

WORKDIR /tmp
ENTRYPOINT ["/opt/venv/bin/bids-lesion-xai"]
