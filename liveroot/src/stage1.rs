//! stage1 (the rescue system): its answers, by which the rescue system's scripts find
//! their server again.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use cmdline::BootPlan;

use crate::Found;

/// stage1's answers; a medium that came as an ISO file is a method of its own.
#[must_use]
pub fn answers(plan: &BootPlan, found: &Found) -> Vec<(String, String)> {
    let mut answers = plan.handoff.settings.clone();
    let iso = found.medium_blob.as_deref().is_some_and(|file| file.ends_with(".iso"));
    let method = answers.iter_mut().find(|(key, _)| iso && key == "METHOD");
    if let Some((_, method)) = method.filter(|(_, method)| matches!(&**method, "nfs" | "disk")) {
        method.push_str("-iso");
    }
    answers
}

/// Settings as a shell reads them.
#[must_use]
pub fn sourced(settings: &[(String, String)]) -> String {
    let mut text = String::new();
    for (key, value) in settings {
        text.push_str(&format!("{key}='{}'\n", value.replace('\'', "'\\''")));
    }
    text
}
