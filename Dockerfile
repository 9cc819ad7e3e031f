# One image for the server and every worker. `make image` builds it with docker, podman or buildah, whichever is there:
#
#   make image                             CUDA: the default build of torch for Linux
#   make image TORCH_INDEX_URL=URL         another build: PyTorch's install page names the wheel index of its CPU
#                                          build and of each CUDA
#
# The packages are one layer, which changes with constraints.txt and pyproject.toml alone; the source is another, of a
# few hundred kB, so that a change of the source is built, pushed and pulled within seconds.
FROM python:3.11-slim AS packages

ARG TORCH_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv --without-pip /venv
WORKDIR /build

# torch before the others: it is the largest and changes seldom.
COPY constraints.txt ./
RUN python3 -m pip --python /venv/bin/python install --constraint constraints.txt \
        ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} \
        "$(grep '^torch==' constraints.txt)${TORCH_INDEX_URL:++${TORCH_INDEX_URL##*/}}"
ARG EXTRAS="kubernetes openlineage"
COPY pyproject.toml ./
RUN python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; o = p['optional-dependencies']; print(*p['dependencies'], *(r for e in '$EXTRAS'.split() for r in o[e]), sep='\n')" > requirements.txt \
 && python3 -m pip --python /venv/bin/python install --constraint constraints.txt -r requirements.txt
COPY deploy/slim.py ./
RUN python3 slim.py /venv

FROM python:3.11-slim

# A volume that is mounted on a folder of the image takes its owner.
RUN useradd --create-home --uid 1000 cfjobs && install --directory --owner=1000 --group=1000 /home/cfjobs/.prefect
COPY --from=packages /venv /venv
# A user who cannot write into the packages has no UI of Prefect's, unless its files go where they can be written.
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_UI_STATIC_DIRECTORY=/home/cfjobs/ui NUMBA_CACHE_DIR=/home/cfjobs/numba
USER 1000
WORKDIR /app
COPY flows flows
COPY deploy deploy
COPY cfjobs cfjobs
ARG GIT_COMMIT=""
# buildah takes ENV and LABEL from its cache whatever the argument says; with RUN before them it does not.
RUN : "$GIT_COMMIT"
ENV CFJOBS_GIT_COMMIT=$GIT_COMMIT
LABEL org.opencontainers.image.revision=$GIT_COMMIT
CMD ["prefect", "worker", "start", "--pool", "cfjobs"]
