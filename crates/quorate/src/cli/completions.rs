//! `quorate completions`: what a shell needs to complete our command lines.

use clap_complete::Shell;

#[derive(clap::Args)]
#[command(after_help = "\
For example:
  bash  source <(quorate completions bash)
  zsh   quorate completions zsh > \"${fpath[1]}/_quorate\"
  fish  quorate completions fish > ~/.config/fish/completions/quorate.fish")]
pub struct Args {
    shell: Shell,
}

pub fn run(args: Args, mut program: clap::Command) -> super::Done {
    // Into memory first: a reader that goes away must not end in a panic.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "quorate", &mut script);
    super::print(String::from_utf8_lossy(&script).trim_end())
}
