//! From the list of methods: the enums that name them all, and which method's code is called.

/// Makes [`PeftConfig`](super::PeftConfig) and [`Method`](super::Method) of `folder: Layer(Config)`, a line each. A layer
/// without a configuration of its own is made by another line's.
macro_rules! methods {
    ($($(#[$doc:meta])* $folder:ident: $layer:ident $(($config:ident))?;)*) => {
        $(
            pub use $folder::$layer;
            $(pub use $folder::$config;)?
        )*

        /// Every method's configuration.
        pub(crate) mod configs {
            $($(pub use super::$folder::$config;)?)*
        }

        /// The configuration of an adapter, by `peft_type`. What all methods can be asked is in [`MethodConfig`].
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum PeftConfig {
            $($(
                #[doc = concat!("A [`", stringify!($config), "`].")]
                $layer($config),
            )?)*
        }

        impl Deref for PeftConfig {
            type Target = dyn MethodConfig;

            fn deref(&self) -> &Self::Target {
                match self {
                    $($(Self::$layer(config) => { let config: &$config = config; config })?)*
                }
            }
        }

        impl DerefMut for PeftConfig {
            fn deref_mut(&mut self) -> &mut Self::Target {
                match self {
                    $($(Self::$layer(config) => { let config: &mut $config = config; config })?)*
                }
            }
        }

        $($(
            impl From<$config> for PeftConfig {
                fn from(config: $config) -> Self {
                    Self::$layer(config)
                }
            }
        )?)*

        impl PeftConfig {
            /// Every method's default.
            pub(crate) fn all() -> Vec<Self> {
                vec![$($(Self::$layer($config::default()),)?)*]
            }

            /// Reads the keys of the method that files name `peft_type`, if there is one.
            pub(crate) fn read_as(peft_type: &str, keys: &mut Section<'_>) -> Option<Self> {
                $($(
                    if $config::default().peft_type() == peft_type {
                        return Some(Self::$layer(keys.over()));
                    }
                )?)*
                None
            }

            /// A configuration to begin with of every method, for a run of `steps` steps.
            pub fn presets(steps: usize) -> Vec<Preset<Self>> {
                let mut all = Vec::new();
                $($(all.extend($config::presets(steps).into_iter().map(|preset| preset.map(Self::$layer)));)?)*
                all
            }

            /// A new adapter for a linear layer, and the residual that takes its weight's place, if one does.
            pub(crate) fn init(&self, place: &Place<'_>) -> Result<(Method, Option<Tensor<2>>)> {
                match self {
                    $($(Self::$layer(config) => {
                        let config: &$config = config;
                        config.init(place).map(|(layer, residual)| (layer.into(), residual))
                    })?)*
                }
            }

            /// A new adapter for an embedding.
            pub(crate) fn init_embedding(&self, place: &Place<'_>) -> Option<EmbeddingLora> {
                match self {
                    $($(Self::$layer(config) => { let config: &$config = config; config.init_embedding(place) })?)*
                }
            }
        }

        /// An adapter of one linear layer, whatever its method. What all methods do is in [`MethodLayer`].
        #[derive(Module, Debug)]
        #[allow(clippy::large_enum_variant)] // a layer has one, and every pass reads it
        #[non_exhaustive]
        pub enum Method {
            $($(#[$doc])* $layer($layer),)*
        }

        impl Deref for Method {
            type Target = dyn MethodLayer;

            fn deref(&self) -> &Self::Target {
                match self {
                    $(Self::$layer(layer) => layer,)*
                }
            }
        }

        impl DerefMut for Method {
            fn deref_mut(&mut self) -> &mut Self::Target {
                match self {
                    $(Self::$layer(layer) => layer,)*
                }
            }
        }

        $(
            impl From<$layer> for Method {
                fn from(layer: $layer) -> Self {
                    Self::$layer(layer)
                }
            }
        )*

        impl<A: Into<Method>, B: Into<Method>> From<Either<A, B>> for Method {
            fn from(layer: Either<A, B>) -> Self {
                match layer {
                    Either::One(layer) => layer.into(),
                    Either::Other(layer) => layer.into(),
                }
            }
        }
    };
}

pub(crate) use methods;
