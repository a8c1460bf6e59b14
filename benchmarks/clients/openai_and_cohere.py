"""The client packages openai and cohere."""

from __future__ import annotations

from noted import Noted


def with_openai(noted: Noted) -> None:
    """``/v1/embeddings`` (as the package asks: base64) and ``/v1/models``."""
    import openai

    asked = noted.request
    client = openai.OpenAI(base_url=f"{asked['address']}/v1", api_key=asked["key"], max_retries=0)
    name = client.models.list().data[0].id

    def embeddings(**options: str) -> list[float]:
        return [one.embedding[0] for one in client.embeddings.create(model=name, input=asked["texts"], **options).data]

    noted.scores(f"openai {openai.__version__}, embeddings (base64)", embeddings)
    noted.scores(f"openai {openai.__version__}, embeddings (float)", lambda: embeddings(encoding_format="float"))
    stranger = openai.OpenAI(base_url=f"{asked['address']}/v1", api_key="wrong-wrong", max_retries=0)
    noted.error("openai, wrong key", lambda: stranger.embeddings.create(model=name, input="a"))
    noted.error("openai, unknown model", lambda: client.embeddings.create(model="nobody", input="a"))
    noted.error("openai, empty input", lambda: client.embeddings.create(model=name, input=[]))
    noted.error("openai, too long", lambda: client.embeddings.create(model=name, input="rice " * 6000))
    noted.error("openai, unknown path", lambda: client.completions.create(model=name, prompt="a"))


def with_cohere(noted: Noted) -> None:
    """``/v1/rerank`` and ``/v2/rerank``."""
    import cohere

    asked = noted.request
    clients = {
        "v1": cohere.Client(base_url=asked["address"], api_key=asked["key"]),
        "v2": cohere.ClientV2(base_url=asked["address"], api_key=asked["key"]),
    }
    model = asked["folder"]
    for version, client in clients.items():
        noted.scores(
            f"cohere {cohere.__version__}, rerank {version}",
            lambda client=client: [
                client.rerank(model=model, query=row["prompt"], documents=[row["response"]]).results[0].relevance_score
                for row in noted.rows
            ],
        )
    stranger = cohere.ClientV2(base_url=asked["address"], api_key="wrong-wrong")
    noted.error("cohere, wrong key", lambda: stranger.rerank(model=model, query="a", documents=["b"]))
    client = clients["v2"]
    noted.error("cohere, unknown model", lambda: client.rerank(model="nobody", query="a", documents=["b"]))
    noted.error("cohere, empty documents", lambda: client.rerank(model=model, query="a", documents=[]))
    noted.error("cohere, too long", lambda: client.rerank(model=model, query="a", documents=["rice " * 6000]))


def main() -> None:
    noted = Noted()
    with_openai(noted)
    with_cohere(noted)


if __name__ == "__main__":
    main()
