"""A web page to try a model: upload or pick an image, type phrases, see boxes and masks.

    rec demo outputs/run/best
    rec demo user/name --port 8000

Needs pip install gradio. It listens on this machine only, unless --host says otherwise, and answers
requests for localhost, the address it listens on and --allow-host only.
"""

import argparse
import importlib.util
import os


def main() -> int:
    from rec.command_line import InputError, add_model_options, model_options, whole

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder, hub id user/name, transformers:ID or openai:MODEL@ADDRESS")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets the network in")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name under which the page is reached",
    )
    parser.add_argument("--port", type=whole(1, 65535), help="default: the first free one from 7860 on")
    add_model_options(parser)
    args = parser.parse_args()
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the web page is made with gradio, which is not installed: pip install gradio")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import rec
    from rec.inference.demo import launch

    grounder = rec.from_pretrained(args.model, **model_options(args))
    print(f"model: {grounder.origin}", flush=True)
    launch(grounder, args.host, args.port, args.allow_host)
    return 0


if __name__ == "__main__":
    from rec.command_line import exit_with

    exit_with(main)
