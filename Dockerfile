# One image for the server and every worker. `make image` builds it with docker, podman or buildah, whichever is there:
#
#   make image                             CUDA: the default build of torch for Linux
#   make image TORCH_INDEX_URL=URL         another build: PyTorch's install page names the wheel index of its CPU
#                                          build and of each CUDA
FROM python:3.11-slim AS build

ARG TORCH_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
WORKDIR /app

# Dependencies first, torch before the others: they change seldom, the source often.
COPY constraints.txt ./
RUN /venv/bin/pip install --constraint constraints.txt ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} \
        "$(grep '^torch==' constraints.txt)${TORCH_INDEX_URL:++${TORCH_INDEX_URL##*/}}"
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['kubernetes'], sep='\n')" > requirements.txt \
 && /venv/bin/pip install --constraint constraints.txt -r requirements.txt \
 && rm -rf /venv/lib/python3.11/site-packages/torch/include /venv/lib/python3.11/site-packages/pyarrow/include

COPY README.md ./
COPY cfjobs cfjobs
COPY flows flows
RUN /venv/bin/pip install --no-deps .

FROM python:3.11-slim

RUN useradd --create-home --uid 1000 cfjobs
COPY --from=build /venv /venv
WORKDIR /app
COPY deploy deploy
# A user who cannot write into the packages has no UI of Prefect's, unless its files go where they can be written.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_UI_STATIC_DIRECTORY=/home/cfjobs/ui NUMBA_CACHE_DIR=/home/cfjobs/numba
USER 1000
ARG GIT_COMMIT=""
ENV CFJOBS_GIT_COMMIT=$GIT_COMMIT
CMD ["prefect", "worker", "start", "--pool", "cfjobs"]
