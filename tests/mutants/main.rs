//! The mutants of the shipped code: whether each still fits, so that none is forgotten when the code moves on. `scripts/mutants` puts them into a
//! copy with `--apply NAME DIRECTORY`, lists them with `--names`, and asks what one takes away with `--guard NAME`.

use std::{env, fs, path::Path, process::ExitCode};

use serde::Deserialize;

#[derive(Deserialize)]
struct Mutants {
    mutant: Vec<Mutant>,
}

#[derive(Deserialize)]
struct Mutant {
    name: String,
    guard: String,
    change: Vec<Change>,
}

#[derive(Deserialize)]
struct Change {
    file: String,
    from: String,
    to: String,
}

impl Change {
    /// The file's text, with this change.
    fn apply(&self, root: &Path) -> Result<String, String> {
        let text = fs::read_to_string(root.join(&self.file)).map_err(|error| format!("{}: {error}", self.file))?;
        match text.matches(&self.from).count() {
            1 => Ok(text.replace(&self.from, &self.to)),
            times => Err(format!("{} has this {times} times, not once: {}", self.file, self.from.trim())),
        }
    }
}

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("tests/mutants/mutants.toml")).expect("the mutants are there");
    let mutants = toml::from_str::<Mutants>(&text).expect("the mutants are understood").mutant;
    let arguments: Vec<_> = env::args().skip(1).collect();
    let named = |name: &str| mutants.iter().find(|mutant| mutant.name == name).expect("a mutant of this name");
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--names"] => mutants.iter().for_each(|mutant| println!("{}", mutant.name)),
        ["--guard", name] => println!("{}", named(name).guard),
        ["--apply", name, tree] => {
            for change in &named(name).change {
                let changed = change.apply(Path::new(tree)).expect("it fits");
                fs::write(Path::new(tree).join(&change.file), changed).expect("the copy can be written");
            }
        }
        _ => return check(root, &mutants),
    }
    ExitCode::SUCCESS
}

fn check(root: &Path, mutants: &[Mutant]) -> ExitCode {
    let unfit = mutants.iter().flat_map(|mutant| mutant.change.iter().map(move |change| (mutant, change)));
    let unfit: Vec<_> = unfit.filter_map(|(mutant, change)| Some((mutant, change.apply(root).err()?))).collect();
    unfit.iter().for_each(|(mutant, why)| println!("mutant {} does not fit any more: {why}", mutant.name));
    println!("mutants={} unfit={}", mutants.len(), unfit.len());
    if unfit.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
