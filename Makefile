# `make demo` and `make test` do all the set-up they need, on a fresh machine.
.PHONY: demo test test-tools check bench build setup clean lock
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export SAM_CLI_TELEMETRY = 0
UV = $(CURDIR)/.tools/uv-command
GO_TOOLS = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/deploy-runner/go-tools

demo: setup  ## Bring AWS up on this machine, deploy the stack to it, and deploy apps with it
	@deploy-runner local demo

test: setup-test  ## Run the tests, in three processes, since they wait a lot: tests/conftest.py says what stays together
	@pytest -n 3

test-tools: setup-test  ## Run the tests with the programs of tools/go.mod, compiled first (a minute or two, once)
	@command -v go >/dev/null || { echo "test-tools: needs Go 1.26 or newer: go.dev/doc/install" >&2; exit 3; }
	@cd tools && GOBIN=$(GO_TOOLS) go install -p 2 tool
	@PATH=$(GO_TOOLS):$(PATH) pytest -m tools

check: setup-test  ## What CI checks besides the tests: style, types, templates
	ruff check . && ruff format --check .
	mypy
	python -m templates.render --check

bench: setup  ## How soon a verdict is there, and what local AWS costs, each beside what one would use instead
	@python benchmarks/verdict.py
	@python benchmarks/local_aws.py

build: setup  ## Render the nested stacks and the documents that are generated
	python -m templates.render

setup:
	@tools/setup
setup-test:
	@tools/setup test

lock:  ## Pin the newest versions that pyproject.toml allows
	$(UV) pip compile -q --upgrade pyproject.toml --extra local --group dev --group lambda --universal \
	    --generate-hashes --python-version 3.13 --no-header -o requirements.lock
	$(UV) pip compile -q --upgrade --group lambda --universal --generate-hashes --python-version 3.13 --no-header \
	    -c requirements.lock -o requirements-lambda.lock
	$(UV) pip compile -q --upgrade --group app-deployer --universal --generate-hashes --python-version 3.11 --no-header \
	    -c requirements.lock -o requirements-app-deployer.lock

clean:
	rm -rf .aws-sam build .venv .tools node_modules

# --- sam build: one artifact for every function, built once ----------------------------------------------------------
# The architecture is the template's parameter LambdaArchitecture; `deploy-runner local env` exports this machine's.
LAMBDA_ARCHITECTURE ?= arm64
LAMBDA_PLATFORM = $(subst arm64,aarch64,$(LAMBDA_ARCHITECTURE))-manylinux2014
ARTIFACT = build/lambda-$(LAMBDA_ARCHITECTURE)
SHARED = $(wildcard src/deploy_runner/*.py src/deploy_runner/domain/*.py src/deploy_runner/github/*.py src/deploy_runner/aws/*.py)

build-%Function: $(ARTIFACT)/.complete
	cp -R $(ARTIFACT)/. $(ARTIFACTS_DIR) && rm $(ARTIFACTS_DIR)/.complete

# An allowlist with errors, or roles that lag behind it, are not packaged.
$(ARTIFACT)/.complete: requirements-lambda.lock apps.yaml $(wildcard templates/*.py) $(SHARED) $(wildcard functions/*.py functions/*/*.py)
	deploy-runner validate && python -m templates.render --check
	@# Made beside its place and then moved there: two builds at once do not see half of each other.
	mkdir -p build && made=$$(mktemp -d build/made.XXXXXX) && mkdir $$made/deploy_runner && \
	$(UV) pip install -q --target $$made --python-platform $(LAMBDA_PLATFORM) --python-version 3.13 \
	    --only-binary :all: --no-deps --require-hashes -r requirements-lambda.lock && \
	cp -R functions apps.yaml $$made && \
	cp -R src/deploy_runner/__init__.py src/deploy_runner/domain src/deploy_runner/github src/deploy_runner/aws $$made/deploy_runner && \
	find $$made -name __pycache__ -prune -exec rm -rf {} + && rm -rf $$made/bin $$made/.lock && \
	chmod 755 $$made && touch $$made/.complete && rm -rf $(ARTIFACT) && mv $$made $(ARTIFACT)
