#include "recurrent/gate_loops.hpp"
#include "recurrent/gates.hpp"

namespace nybble {

const GateKernels kGatesGeneric = {Loops<Lane>::lstm,  Loops<Lane>::lstm_grad,
                                   Loops<Lane>::gru,   Loops<Lane>::gru_grad,
                                   Loops<Lane>::plain, Loops<Lane>::plain_grad};

} // namespace nybble
