"""From a log to recommendations in five steps.

python examples/quickstart.py OUT               on a simulated log
python examples/quickstart.py OUT my_log.yaml   on your own log; `isthmus init LOG` drafts its YAML
"""

import sys
from pathlib import Path

import isthmus
from isthmus.data.simulator import simulate
from isthmus.serving.recommend import Recommendations


def main(out: Path, log: Path | None = None, *, num_users: int = 2000, epochs: int = 3) -> Recommendations:
    """Prepare, check, train, evaluate, recommend; gives one user's recommendations in the first domain."""
    if log is None:
        log = simulate(out / "log", num_users=num_users, num_items=300, seed=0)

    dataset = isthmus.prepare(log, out / "dataset")
    assert all(finding.ok for finding in isthmus.audit(dataset.path))

    run = isthmus.train(
        dataset.path,
        out / "run",
        overrides=[
            "retrieval.embedding_dim=32",
            "retrieval.backbone={kind: adi, hidden_dims: [32]}",
            f"training.epochs={epochs}",
            "training.batch_size=512",
        ],
    )
    print(isthmus.evaluate(run.path).to_markdown())

    user, domain = dataset.vocabulary("user")[0], dataset.schema.domain_names[0]
    answer = run.recommend(domain, user=user, k=5)
    print(f"\nfor {user} in {answer.domain}, by {answer.basis}:")
    for item in answer.items:
        print(f"{item.score:9.4f}  {item.item}  {item.title or ''}")
    return answer


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit(__doc__)
    main(*(Path(word) for word in sys.argv[1:]))
