//! Lint of kernels that have drivers for virtual machines only.

use std::slice;

use super::lints::DRIVERS;
use crate::check::context::CheckContext;
use crate::check::{Finding, Findings, PassError};
use crate::image::drivers::{VIRTUAL_ONLY, kernels_in_view};
use crate::image::view::StackView;

pub(super) fn drivers(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let roots = context.roots()?;
    let message = format!("the kernel {VIRTUAL_ONLY}");
    let before: Vec<Vec<u8>> = match &roots.lower {
        Some(lower) => kernels_in_view(lower)?.into_iter().map(|(dir, _)| dir).collect(),
        None => Vec::new(),
    };
    for (dir, drivers) in kernels_in_view(&roots.view)? {
        if drivers.are_virtual_only() && !before.contains(&dir) {
            let finding = Finding::new(&DRIVERS, "", Some(&dir), &*message);
            findings
                .push(finding.attributed_to(context.responsible_layers(slice::from_ref(&dir))?));
        }
    }
    let Some(initrd) = &context.request.initrd else { return Ok(()) };
    let cannot = |error: &dyn std::error::Error| {
        PassError::CannotRun(format!("cannot read the initrd: {error}"))
    };
    let view = StackView::open(slice::from_ref(initrd)).map_err(|error| cannot(&error))?;
    for (dir, drivers) in kernels_in_view(&view).map_err(|error| cannot(&error))? {
        if drivers.are_virtual_only() {
            findings.add(&DRIVERS, &initrd.to_string_lossy(), &dir, &*message);
        }
    }
    Ok(())
}
