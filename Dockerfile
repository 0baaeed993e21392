# docker build --tag bids_lesion_xai:0.1.0 .
# TORCH_INDEX decides which torch: the small CPU build by default, https://pypi.org/simple for CUDA.
FROM docker.io/library/debian:bookworm-slim AS build

RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv

WORKDIR /src
COPY . .
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
        --extra-index-url "$TORCH_INDEX" --constraint constraints.txt . \
    && chmod -R a+rX /opt/venv

# Fails here, not at the user's, if the wheel lacks weights or templates.
RUN cd / && /opt/venv/bin/python -c "\
from pathlib import Path; \
import bids_lesion_xai; \
from bids_lesion_xai.models.bundle import DEFAULT_BUNDLE, read_bundle; \
read_bundle(DEFAULT_BUNDLE).verify(); \
assert (Path(bids_lesion_xai.__file__).parent / 'reports/templates/page.css').is_file()"


FROM docker.io/library/debian:bookworm-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/venv /opt/venv

# Nothing is written to the home folder or into the image: any user, read-only, without network.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    MPLBACKEND=Agg \
    MPLCONFIGDIR=/tmp/lesion-xai/matplotlib \
    XDG_CACHE_HOME=/tmp/lesion-xai/cache \
    XDG_CONFIG_HOME=/tmp/lesion-xai/config \
    TORCH_HOME=/tmp/lesion-xai/torch \
    DENO_DIR=/tmp/lesion-xai/deno \
    DENO_NO_UPDATE_CHECK=1 \
    NIPYPE_CONFIG_DIR=/tmp/lesion-xai/nipype \
    NO_ET=1

ARG VERSION=0.1.0
ARG REVISION=unknown
ENV LESION_XAI_CONTAINER=docker \
    LESION_XAI_CONTAINER_TAG=bids_lesion_xai:$VERSION
LABEL org.opencontainers.image.title="bids_lesion_xai" \
      org.opencontainers.image.description="BIDS App: multiple sclerosis lesion segmentation with an explanation of every single lesion. Research use only." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

WORKDIR /tmp
ENTRYPOINT ["/opt/venv/bin/bids-lesion-xai"]
