"""Push a model folder to a Hugging Face Hub, as one commit with its generated model card.

    rec push outputs/run/best user/name
    rec push outputs/run user/name --public --message "25 epochs"

Log in first with `hf auth login` or set HF_TOKEN. Only the model folder is pushed; --with-checkpoint adds a checkpoint,
optimizer state included. Afterwards `rec.from_pretrained("user/name")` loads it anywhere.
"""

import argparse
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="model folder, or a run folder whose best/ is meant")
    parser.add_argument("repo_id", help="user/name; made if it does not exist")
    parser.add_argument("--public", action="store_true", help="make a new repository public; private otherwise")
    parser.add_argument("--message", default="", help="of the commit")
    parser.add_argument("--with-checkpoint", metavar="FOLDER", help="push this checkpoint too, with optimizer state")
    from rec.command_line import add_trust_option

    add_trust_option(parser)
    args = parser.parse_args()
    from rec.errors import CheckpointError
    from rec.model_folder.find import find_trained
    from rec.model_folder.format import ModelFolderError
    from rec.model_folder.hub import push
    from rec.model_folder.reader import read
    from rec.training.checkpoint_format import damage
    from rec.trust import weights_of_others

    trained = find_trained(args.model)
    if trained.is_checkpoint:
        raise ModelFolderError(f"{trained.folder} is a checkpoint; push a model folder, such as best/ of the run")
    read(trained.folder, args.trust_config)  # what cannot be loaded is not worth pushing
    if args.with_checkpoint and (
        trouble := weights_of_others(args.with_checkpoint) or damage(Path(args.with_checkpoint))
    ):
        raise CheckpointError(f"--with-checkpoint: {trouble}")
    address = push(
        trained.folder, args.repo_id, private=not args.public, message=args.message, checkpoint=args.with_checkpoint
    )
    print(f"pushed {trained.folder} to {address}")
    return 0


if __name__ == "__main__":
    from rec.command_line import exit_with

    exit_with(main)
