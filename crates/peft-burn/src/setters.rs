//! Setters of configurations, here and in the crates above.

/// Writes a method for each line that sets one field: `name(argument: Type) { field: value }`.
#[doc(hidden)]
#[macro_export]
macro_rules! setters {
    ($config:ident { $($(#[$doc:meta])* $name:ident($argument:ident: $type:ty) { $field:ident: $value:expr })* }) => {
        impl $config {
            $(
                $(#[$doc])*
                pub fn $name(self, $argument: $type) -> Self {
                    Self { $field: $value, ..self }
                }
            )*
        }
    };
}
