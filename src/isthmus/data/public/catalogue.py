"""The public data sets by name; the importer of each is loaded when it is asked for."""

from pathlib import Path

from isthmus.errors import InputError


def ingest_public(name: str, source: Path, out: Path, *, seed: int = 0) -> Path:
    """Make the log of a data set; arguments as of `isthmus.ingest`.

    Raises:
        InputError: no data set has this name, or its files are not there or not as published.
    """
    match name:
        case "xmrec":
            from isthmus.data.public.xmrec import ingest_xmrec

            return ingest_xmrec(source, out, seed=seed)
        case "epinions":
            from isthmus.data.public.epinions import ingest_epinions

            return ingest_epinions(source, out, seed=seed)
        case "grocery_kitchen" | "movie_book" | "kg_books_movies":
            from isthmus.data.public import amazon_pairs

            match name:
                case "grocery_kitchen":
                    return amazon_pairs.ingest_grocery_kitchen(source, out, seed=seed)
                case "movie_book":
                    return amazon_pairs.ingest_movie_book(source, out, seed=seed)
                case "kg_books_movies":
                    return amazon_pairs.ingest_kg_books_movies(source, out, seed=seed)
        case "amazon_reviews":
            from isthmus.data.public.amazon_reviews import ingest_amazon_reviews

            return ingest_amazon_reviews(source, out)
        case "taobao":
            from isthmus.data.public.taobao import ingest_taobao

            return ingest_taobao(source, out)
        case "ali_ccp":
            from isthmus.data.public.impression_logs import ingest_ali_ccp

            return ingest_ali_ccp(source, out, seed=seed)
        case "kuairand":
            from isthmus.data.public.impression_logs import ingest_kuairand

            return ingest_kuairand(source, out, seed=seed)
        case _:
            raise InputError(f"{name}: unknown data set")
