#include "blocks/loops.hpp"

namespace nybble {

const BlockKernels kBlockGeneric = {Loops<Lane>::tops,    Loops<Lane>::scaled,
                                    Loops<Lane>::nearest, Loops<Lane>::stochastic,
                                    Loops<Lane>::turn,    Loops<Lane>::turn_strided};

} // namespace nybble
