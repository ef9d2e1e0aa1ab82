//! The dialect of lines that hold nothing but our own words (`bw.root=` and so on),
//! the kernel's network words, and the kernel's usual ones.

use crate::ip::Form;
use crate::plan::{BootPlan, Dialect};
use crate::table::{Draft, Grammar};
use crate::{base, net, own};

pub(crate) static GRAMMAR: Grammar = Grammar {
    dialect: Dialect::Bellwether,
    tables: &[&own::OWN, &own::P2V, &net::NET, &base::BASE],
    pass: "",
    first_wins: false,
    splits_quotes: false,
    build,
};

fn build(d: &mut Draft<'_>, plan: &mut BootPlan) {
    if let Some(ip) = net::read_ip(d, Form::Kernel) {
        plan.network = Some(net::plan(d, Some(ip), net::Extra::default()));
    }
}
