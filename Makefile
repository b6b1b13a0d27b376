PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: help setup demo tour test tests proofs lint docs format clean bench-quality bench-ablation bench-budget bench-ranking bench-recipes bench-controls bench-path bench-service bench-year soak \
	compose-by-hand bench-finalists bench-supernet bench-gpu bench-input bench-parallel bench-precision bench-peers bench-fastnas bench-warm bench-never-worse bench-sweep bench-start soak-cluster test-converters screenshots lighthouse break-in images test-images search-images lock sbom licences audit
.DEFAULT_GOAL := help
LOCK := --quiet --upgrade --generate-hashes --no-annotate --no-header --constraint constraints.txt \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28
# Otherwise each of the many processes of a search and of the tests would compile Yoso anew.
unexport PYTHONDONTWRITEBYTECODE

help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 24

setup: .venv/installed ## Make the virtual environment with everything that Yoso needs

demo: .venv/installed ## Search on real scans of digits with a service of its own (seven minutes)
	$(BIN)/python -m service.demo

tour: .venv/installed ## Take a folder of photos to a network by the commands of docs/tour.md (twenty minutes; DATA=FOLDER)
	./tools/browser
	$(BIN)/python -m tools.tour $(DATA) $(ARGS)

# Types are checked beside the tests, behind them for a core: a Ray that the tests start has half a minute to begin.
test: .venv/installed ## Run every check but the proofs
	@$(MAKE) --no-print-directory --jobs 2 NICE="nice -n 19" lint tests

# A Ray ends unless its agents have started within fifteen seconds: its tests have the processors almost to themselves.
tests: .venv/installed
	./tools/browser
ifdef ARGS
	$(BIN)/python -m pytest $(ALSO) --numprocesses 4 --dist worksteal $(ARGS)
else
	$(BIN)/python -m pytest $(ALSO) --numprocesses 2 --dist worksteal tests/acceptance tests/integration; on_ray=$$?; \
	$(BIN)/python -m pytest $(ALSO) --numprocesses 4 --dist worksteal tests/browser tests/unit && exit $$on_ray
endif

proofs: export HYPOTHESIS_PROFILE := $(or $(HYPOTHESIS_PROFILE),thorough)
proofs: ALSO = -m ""
proofs: tests ## Run every test, also those of minutes, and all with more cases (an hour)

lint: .venv/installed ## Check style, types and who may import whom
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(NICE) $(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: .venv/installed ## Build the documentation's site in build/site; a broken link or anchor fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench-quality: .venv/installed ## Does a search choose better than chance? (an hour)
	$(BIN)/python -m benchmarks.quality $(ARGS)

bench-ablation: .venv/installed ## Do split data and pretraining help, as in the paper's table 3?
	$(BIN)/python -m benchmarks.ablation $(ARGS)

bench-budget: .venv/installed ## Is the budget kept in sixty random searches? (minutes)
	$(BIN)/python -m benchmarks.budget $(ARGS)

bench-ranking: .venv/installed ## Does accuracy with inherited weights rank networks? (five minutes)
	$(BIN)/python -m benchmarks.ranking $(ARGS)

bench-recipes: .venv/installed ## What does each part of a recipe for retraining gain on photographs? (an hour)
	$(BIN)/python -m benchmarks.recipes $(ARGS)

bench-controls: .venv/installed ## What would other operations, widths, stems and depths gain on photographs? (an hour)
	$(BIN)/python -m benchmarks.controls $(ARGS)

bench-path: .venv/installed ## Does one search serve eight budgets? (half an hour)
	$(BIN)/python -m benchmarks.path $(ARGS)

bench-supernet: .venv/installed ## How much faster is the supernet than the plainest one that is right? (half an hour)
	$(BIN)/python -m benchmarks.supernet $(ARGS)

bench-peers: .venv/installed ## Is a searched network better on photographs than what people draw? (hours; ARGS="--data FOLDER")
	$(BIN)/python -m benchmarks.peers $(ARGS)

# Its own environment sees what Yoso's has, and holds FastNAS beside it.
bench-fastnas: .venv/installed ## How good is what FastNAS cuts out of a ResNet? (an hour; ARGS="--data FOLDER")
	$(BIN)/python -m venv --without-pip build/fastnas
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > "$$(build/fastnas/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/yoso.pth"
	$(BIN)/python -m pip --python build/fastnas/bin/python install --quiet nvidia-modelopt==0.47.0 torchprofile==0.0.4
	build/fastnas/bin/python -m benchmarks.fastnas $(ARGS)

bench-warm: .venv/installed ## What is it worth to train on from the supernet's weights? (ten minutes)
	$(BIN)/python -m benchmarks.warm $(ARGS)

bench-never-worse: .venv/installed ## Is what a search delivers ever worse than a network drawn by people? (half an hour)
	$(BIN)/python -m benchmarks.never_worse $(ARGS)

bench-precision: .venv/installed ## Does a search in bfloat16 find networks as good as one in float32? (ten minutes)
	$(BIN)/python -m benchmarks.precision $(ARGS)

bench-gpu: .venv/installed ## How fast does a GPU train the supernet, and in what memory? (eight minutes at a time)
	$(BIN)/python -m benchmarks.gpu $(ARGS)

bench-parallel: .venv/installed ## What do several workers gain, and what do they say to each other? (six minutes)
	$(BIN)/python -m benchmarks.parallel $(ARGS)

bench-input: .venv/installed ## Are images ready as fast as torchvision has them, and does training wait? (three minutes)
	$(BIN)/python -m benchmarks.input $(ARGS)

bench-finalists: .venv/installed ## What does stopping finalists early save, and does the same one win? (half an hour)
	$(BIN)/python -m benchmarks.finalists $(ARGS)

bench-sweep: .venv/installed ## Six budgets in one sweep on the digits, its front, and its cost (ten minutes)
	$(BIN)/python -m benchmarks.sweep $(ARGS)

bench-start: .venv/installed ## How long until the first training step, and what does not train after it? (ten minutes)
	$(BIN)/python -m benchmarks.start $(ARGS)

bench-year: .venv/installed ## What do 100,000 searches of a year do to pages, claims and the database? (an hour)
	$(BIN)/python -m benchmarks.year $(ARGS)

bench-service: .venv/installed ## What does the service cost, beside references? (16 minutes)
	$(BIN)/python -m benchmarks.service $(ARGS)

soak: .venv/installed ## Is anything lost when dispatchers are killed and stopped a thousand times? (ten minutes)
	$(BIN)/python -m benchmarks.soak $(ARGS)

break-in: .venv/installed ## What do attempts to break into a service get? (a minute)
	$(BIN)/python -m benchmarks.break_in

soak-cluster: .venv/installed ## Do searches and a sweep outlive the nodes of a cluster, and a thousand searches share it? (seven minutes)
	$(BIN)/python -m pytest -m proof tests/integration/test_cluster.py tests/integration/test_autoscaler.py tests/unit/service/test_shares.py $(ARGS)

# Each in an environment of its own: LiteRT's converter needs an older torch than Yoso, Core ML's none but Yoso's.
test-converters: .venv/installed ## Write networks as LiteRT and Core ML with the real converters (ten minutes; installs 7 GB)
	$(BIN)/python -m venv build/litert
	build/litert/bin/pip install --quiet litert-torch==0.10.0
	$(BIN)/python -m venv --without-pip build/coreml
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > "$$(build/coreml/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/yoso.pth"
	$(BIN)/python -m pip --python build/coreml/bin/python install --quiet coremltools==9.0
	LITERT_PYTHON=build/litert/bin/python COREML_PYTHON=build/coreml/bin/python $(BIN)/python -m pytest -m proof tests/unit/service/test_conversion.py $(ARGS)

screenshots: .venv/installed ## Make the pictures of every page in docs/screenshots
	./tools/browser
	$(BIN)/python -m tools.screenshots $(ARGS)

lighthouse: .venv/installed ## Audit every page of the dashboard with Lighthouse, which npm installs into build/
	./tools/browser
	test -x build/lighthouse/node_modules/.bin/lighthouse || npm install --no-fund --prefix build/lighthouse lighthouse@12.8.2
	$(BIN)/python -m tools.lighthouse $(ARGS)

compose-by-hand: .venv/installed ## Run what docker-compose.yml runs without a container engine, until a search has succeeded
	$(BIN)/python -m tools.compose_by_hand

images: .venv/installed ## Build both images with docker, podman or buildah (ARGS=service for one)
	$(BIN)/python -m tools.images build $(ARGS)

test-images: .venv/installed ## Build the service's image, and let it migrate, serve and answer
	$(BIN)/python -m tools.images build service
	$(BIN)/python -m tools.images test

search-images: .venv/installed ## Build both images, and let a search on the digits run through them (half an hour)
	$(BIN)/python -m tools.images build
	$(BIN)/python -m tools.images search

# What the images install, with the hashes of their files, as the index tells them.
lock: .venv/installed ## Write deploy/*.lock.txt anew from pyproject.toml and constraints.txt (asks pypi.org)
	$(BIN)/python -m venv build/lock
	build/lock/bin/pip install --quiet uv==0.13.9
	build/lock/bin/uv pip compile $(LOCK) --extra gcs --extra mlflow --extra otel --extra redis --extra s3 --output-file deploy/service.lock.txt pyproject.toml
	build/lock/bin/uv pip compile $(LOCK) --extra gcs --extra s3 --extra worker --output-file deploy/worker.lock.txt pyproject.toml

sbom: .venv/installed ## List what Yoso needs when it runs, as CycloneDX in build/sbom.cdx.json
	$(BIN)/python -m tools.shipped build/shipped
	$(BIN)/cyclonedx-py environment build/shipped/bin/python --pyproject pyproject.toml --output-reproducible --output-file build/sbom.cdx.json

licences: .venv/installed ## Write their licences to build/licences.md; fails for one that pyproject.toml does not allow
	$(BIN)/python -m tools.shipped build/shipped
	$(BIN)/pip-licenses --python build/shipped/bin/python --output-file build/licences.md

# Strict, or packages that the index says nothing of would count as sound.
audit: .venv/installed ## Is anything of constraints.txt known to be vulnerable? (asks pypi.org)
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict $(ARGS)

format: .venv/installed ## Put the code in form
	$(BIN)/ruff check --fix --quiet
	$(BIN)/ruff format

clean: ## Remove the virtual environment and every cache
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
