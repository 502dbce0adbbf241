# Three nodes of raft-kv in containers, as its users know them; everything else is cargo's.

.DEFAULT_GOAL := help
.PHONY: help run stop test

help: ## Say what there is
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

run: ## Build and start three nodes on 127.0.0.1:4001 to 4003
	docker compose up --build

stop: ## Stop them; their data stays
	docker compose down

test: ## Run every test
	cargo test --workspace
