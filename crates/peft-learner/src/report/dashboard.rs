//! Burn's dashboard, which is compiled in with the feature `tui`.

use burn::train::Interrupter;
use burn::train::renderer::MetricsRenderer;

/// Burn's dashboard, which stops a run through `interrupter`, where stdout is a terminal.
#[cfg(feature = "tui")]
pub(crate) fn dashboard(interrupter: &Interrupter) -> Option<Box<dyn MetricsRenderer>> {
    use std::io::IsTerminal;

    use burn::train::renderer::tui::TuiMetricsRendererWrapper;

    std::io::stdout().is_terminal().then(|| {
        #[cfg(unix)]
        let terminal = super::terminal::Terminal::begin();
        let dashboard: Box<dyn MetricsRenderer> = Box::new(TuiMetricsRendererWrapper::new(interrupter.clone(), None));
        #[cfg(unix)]
        terminal.keep_ctrl_c();
        dashboard
    })
}

/// None: it is not compiled in.
#[cfg(not(feature = "tui"))]
pub(crate) fn dashboard(_: &Interrupter) -> Option<Box<dyn MetricsRenderer>> {
    None
}
