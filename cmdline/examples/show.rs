//! Prints the plan of each argument.
fn main() {
    for line in std::env::args().skip(1) {
        let plan = cmdline::parse(&line, &cmdline::Context::default());
        println!(
            "{line}\n{}{}{}",
            plan.to_text(),
            plan.words_text(|_, _| None),
            plan.warnings_text()
        );
    }
}
