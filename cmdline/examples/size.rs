//! What /init uses of this crate, for a look at its size.
fn main() {
    for line in std::env::args().skip(1) {
        let plan = cmdline::parse(&line, &cmdline::Context::default());
        print!("{}", plan.to_json());
        for warning in &plan.warnings {
            print!("{} {} {}", warning.word, warning.message, warning.hint);
        }
    }
}
