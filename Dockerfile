# One image for every worker.
#
#   docker build -t cfjobs .                                      CUDA: the default build of torch for Linux
#   docker build -t cfjobs --build-arg TORCH_INDEX_URL=URL .      another build: PyTorch's install page names the
#                                                                 wheel index of its CPU build and of each CUDA
FROM python:3.11-slim AS build

ARG TORCH_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
WORKDIR /app

# Dependencies first: they change seldom, the source often.
COPY pyproject.toml constraints.txt ./
RUN /venv/bin/pip install --constraint constraints.txt ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} \
        "$(grep '^torch==' constraints.txt)${TORCH_INDEX_URL:++${TORCH_INDEX_URL##*/}}"
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
 && /venv/bin/pip install --constraint constraints.txt -r requirements.txt

COPY README.md ./
COPY cfjobs cfjobs
COPY flows flows
RUN /venv/bin/pip install --no-deps .

FROM python:3.11-slim

RUN useradd --create-home --uid 1000 cfjobs
COPY --from=build /venv /venv
WORKDIR /app
COPY flows flows
COPY deploy deploy
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 DO_NOT_TRACK=1 PREFECT_SERVER_ANALYTICS_ENABLED=false
USER cfjobs
CMD ["prefect", "worker", "start", "--pool", "cfjobs", "--work-queue", "default"]
